"""The Open Inference Protocol (V2) over gRPC. What it says is `mpack_runtime.v2`'s; only `port` is for the master."""

from __future__ import annotations

import importlib
import importlib.util


def preload() -> None:
    """Imports all of it in an image that has gRPC, so that the self-check can tell its sources."""
    for module in ("port", "record", "server") if importlib.util.find_spec("grpc") is not None else ():
        importlib.import_module(f"{__name__}.{module}")
