"""`health` of a Triton image: asks its server whether it is ready. Standard library only, so that it is quick."""

from __future__ import annotations

import http.client
import os
import sys
from pathlib import Path

from mpack_runtime.config import ModelConfig, Settings
from mpack_runtime.errors import LoadFailure
from mpack_runtime.triton.address import default_flags, health_status, listens

_PROCESS_1 = Path("/proc/1/cmdline")


def is_triton() -> bool:
    """True in an image whose model.json names Triton as its server."""
    try:
        return ModelConfig.load().serving.get("server") == "triton"
    except LoadFailure:
        return False


def health() -> int:
    """0 if /v2/health/ready answers 200 within three seconds, else 1 with the reason on stderr."""
    flags = (*default_flags(Settings.from_env(), os.environ), *given_flags())
    address, other = listens(flags, "http"), listens(flags, "grpc")
    try:
        if address is None and other is not None:
            other.connect(3.0).close()  # it listens when all models are loaded
            return 0
        if address is None:
            print("The server serves neither HTTP nor gRPC.", file=sys.stderr)
            return 1
        status = health_status(address)
    except (OSError, http.client.HTTPException) as error:
        print(f"The service does not answer: {error}.", file=sys.stderr)
        return 1
    if status != 200:
        print(f"The service is not ready (HTTP {status}).", file=sys.stderr)
    return 0 if status == 200 else 1


def given_flags(cmdline: Path = _PROCESS_1) -> list[str]:
    """The flags that the user gave to process 1 of this container."""
    try:
        words = cmdline.read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []
    if "mpack_runtime" not in words or "triton" not in words:
        return []
    return words[words.index("triton") + 1 :]
