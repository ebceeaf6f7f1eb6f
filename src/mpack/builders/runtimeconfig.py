"""The `config` object of an image: the plan's configuration over its base's, as a Dockerfile on it would give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mpack.plan import VENV
from mpack.spec import HealthCheck, ImageConfig

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SECOND = 1_000_000_000


def runtime_config(
    base: Mapping[str, Any], config: ImageConfig, programs: Sequence[str] = (f"{VENV}/bin",)
) -> dict[str, Any]:
    """The new object. Environment, labels, ports and volumes of `base` (the base's) stay; PATH begins with the
    directories of `programs`."""
    environment = dict(item.partition("=")[::2] for item in base.get("Env") or ())
    environment["PATH"] = f"{':'.join(programs)}:{environment.get('PATH') or _DEFAULT_PATH}"
    environment.update(config.env)
    made: dict[str, Any] = {
        "User": config.user,
        "WorkingDir": config.workdir,
        "Env": [f"{key}={value}" for key, value in environment.items()],
        "Entrypoint": list(config.entrypoint),
        "Cmd": list(config.command),
        "ExposedPorts": {**(base.get("ExposedPorts") or {}), **{f"{port}/tcp": {} for port in config.ports}},
        "Volumes": {**(base.get("Volumes") or {}), **{path: {} for path in config.volumes}},
        "Labels": {**(base.get("Labels") or {}), **dict(config.labels)},
        "StopSignal": config.stop_signal,
    }
    if config.healthcheck is not None:
        made["Healthcheck"] = _healthcheck(config.healthcheck)
    return {key: value for key, value in made.items() if value}


def _healthcheck(check: HealthCheck) -> dict[str, Any]:
    """Docker's extension of the OCI configuration; times in nanoseconds."""
    return {
        "Test": ["CMD", *check.command],
        "Interval": round(check.interval * _SECOND),
        "Timeout": round(check.timeout * _SECOND),
        "StartPeriod": round(check.start_period * _SECOND),
        "Retries": check.retries,
    }
