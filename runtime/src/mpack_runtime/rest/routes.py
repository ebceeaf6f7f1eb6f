"""The paths that metrics count by, and what each of them is for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

#: Path, group. What is in braces stands for one segment. Each road to the model is a group of its own.
TABLE: tuple[tuple[str, str], ...] = (
    ("/api/model/invoke", "odahu"),
    ("/v2/models/{name}/infer", "v2"),
    ("/v2/models/{name}/versions/{version}/infer", "v2"),
    ("/v1/models/{name}:predict", "v1"),
    ("/invocations", "mlflow"),
    ("/inference.GRPCInferenceService/ModelInfer", "grpc"),
    ("/api/model/feedback", "feedback"),
    ("/feedback/model", "feedback"),
    ("/healthcheck", "health"),
    ("/livez", "health"),
    ("/readyz", "health"),
    ("/health", "health"),
    ("/ping", "health"),
    ("/v2/health/live", "health"),
    ("/v2/health/ready", "health"),
    ("/v2/models/{name}/ready", "health"),
    ("/v2/models/{name}/versions/{version}/ready", "health"),
    ("/inference.GRPCInferenceService/ServerLive", "health"),
    ("/inference.GRPCInferenceService/ServerReady", "health"),
    ("/inference.GRPCInferenceService/ModelReady", "health"),
    ("/grpc.health.v1.Health/Check", "health"),
    ("/grpc.health.v1.Health/Watch", "health"),
    ("/metrics", "metrics"),
    ("/api/model/info", "documents"),
    ("/openapi.json", "documents"),
    ("/v2", "documents"),
    ("/v2/models/{name}", "documents"),
    ("/v2/models/{name}/versions/{version}", "documents"),
    ("/v2/repository/index", "documents"),
    ("/v1/models", "documents"),
    ("/v1/models/{name}", "documents"),
    ("/version", "documents"),
    ("/inference.GRPCInferenceService/ServerMetadata", "documents"),
    ("/inference.GRPCInferenceService/ModelMetadata", "documents"),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "documents"),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "documents"),
    ("/", "documents"),
)
#: The groups that ask the model.
ROADS = ("odahu", "v2", "v1", "mlflow", "grpc")
OTHER = "other"
#: Every group, in the order of the table, and the one of all other paths.
GROUPS: tuple[str, ...] = (*dict.fromkeys(group for _, group in TABLE), OTHER)

#: What is in braces fits itself, so a row's own words are its number too.
_EXACT = {path: number for number, (path, _) in enumerate(TABLE)}


def find(path: str) -> int:
    """The number of the row of TABLE that `path` belongs to, with a final slash or without; len(TABLE): none."""
    number = _EXACT.get(path)
    return number if number is not None else _match(path.rstrip("/"))


def group(path: str) -> str:
    """The group that `path` belongs to."""
    return group_of(find(path))


def group_of(number: int) -> str:
    """The group of a row of TABLE; of any other number "other"."""
    return TABLE[number][1] if number < len(TABLE) else OTHER


def labels() -> Iterable[tuple[str, str]]:
    """Path and group of every number that `find` gives, in order."""
    return (*TABLE, (OTHER, OTHER))


def _match(path: str) -> int:
    fits = (number for pattern, number in _patterns() if pattern.fullmatch(path))
    return _EXACT[path] if path in _EXACT else next(fits, len(TABLE))


@cache
def _patterns() -> tuple[tuple[re.Pattern[str], int], ...]:
    # Compiled for the first path that needs them: the start of a service does not wait for it.
    return tuple(
        (re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path))), number)
        for number, (path, _) in enumerate(TABLE)
        if "{" in path
    )
