"""The Open Inference Protocol (V2) over gRPC. What it says is `mpack_runtime.v2`'s; only `port` is for the master."""

from __future__ import annotations

import importlib
import os


def preload() -> None:
    """Imports all of it in an image that serves gRPC, so that the self-check can tell its sources."""
    for module in ("port", "record", "server") if os.environ.get("MPACK_GRPC_PORT") else ():
        importlib.import_module(f"{__name__}.{module}")
