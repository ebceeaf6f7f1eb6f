"""`self-check`: the image asks its model the sample, over the road that it serves."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
from typing import TextIO

from mpack_runtime import selfcheck
from mpack_runtime.config import ModelConfig
from mpack_runtime.errors import RuntimeFault
from mpack_runtime.service import Service


def check(config: ModelConfig, out: TextIO, *, modules: bool = False) -> int:
    """Prints the report as one JSON line; exit code 0 passed, 4 failed."""
    report = selfcheck.run(config, _connect_all if modules else _connect, modules=modules)
    print(report.line(), file=out)
    return report.exit_code


def _connect(service: Service) -> selfcheck.Ask:
    """The REST application where the image has one, else the road of `predict`, from bytes to bytes."""
    if importlib.util.find_spec("flask") is not None and importlib.util.find_spec("gunicorn") is not None:
        # Not rest.app: what `serve` imports, gunicorn with it, belongs to the modules that get byte code.
        from mpack_runtime.rest.server import connect

        return connect(service)
    return lambda body: _predict(service, body)


def _connect_all(service: Service) -> selfcheck.Ask:
    """The same, with what only some settings or requests import: it gets byte code too."""
    ask = _connect(service)
    if "mpack_runtime.rest.server" in sys.modules:
        from mpack_runtime import grpc
        from mpack_runtime.rest import arrow, operations, roads

        operations.preload()
        roads.preload()
        grpc.preload()
        if service.config.arrow:
            arrow.preload()
    else:
        from mpack_runtime.cli import predict

        predict.preload()
    return ask


def _predict(service: Service, body: bytes) -> tuple[int, bytes]:
    from mpack_runtime.cli.sink import sink
    from mpack_runtime.cli.source import chunks

    answer = io.BytesIO()
    writer = sink("json", answer)
    try:
        for chunk in chunks(service, io.BytesIO(body), "json"):
            writer.write(service.predict(chunk.inputs))
        writer.close()
    except RuntimeFault as error:
        return error.status, json.dumps({"message": error.message}).encode()
    return 200, answer.getvalue()
