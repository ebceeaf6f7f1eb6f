"""Triton's protobuf schema, ModelConfig, as the package tritonclient brings it.

Only the one generated module is loaded, by its file: importing tritonclient.grpc would need grpcio and numpy.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Any

from mpack.errors import EnvironmentFault

#: A message of Triton's schema. The generated classes are made when the module is loaded, so there is no static type.
Message = Any
_HINT = "Install them: pip install 'mpack-packagers[triton]'."


def new_config() -> Message:
    """An empty ModelConfig. Raises EnvironmentFault tool-missing without tritonclient and protobuf."""
    return pb2().ModelConfig()


@cache
def pb2() -> Any:
    """The generated module model_config_pb2. Raises EnvironmentFault tool-missing."""
    found = importlib.util.find_spec("tritonclient")
    path = Path(next(iter(found.submodule_search_locations or ())), "grpc/model_config_pb2.py") if found else None
    if path is None or not path.is_file() or not _has_protobuf():
        raise EnvironmentFault("tool-missing", "A config.pbtxt needs tritonclient and protobuf: not installed.", _HINT)
    name = "mpack_docker_triton.model_config_pb2"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            spec.loader.exec_module(module)
    except Exception as error:
        reason = f"Triton's schema cannot be loaded from {path.name} of tritonclient: {error}"
        raise EnvironmentFault("tool-missing", reason, _HINT) from error
    sys.modules[name] = module
    return module


def _has_protobuf() -> bool:
    try:
        return importlib.util.find_spec("google.protobuf") is not None
    except ModuleNotFoundError:  # no package of google's at all
        return False


def text_format() -> Any:
    """google.protobuf.text_format, after `pb2` made sure that it is there."""
    pb2()
    return importlib.import_module("google.protobuf.text_format")
