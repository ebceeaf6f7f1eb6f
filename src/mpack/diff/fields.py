"""An image's configuration and manifest as flat fields, so that a difference has a name and two values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mpack.oci.image import OciImage

_BASE = {
    "label.org.opencontainers.image.base.name": "base",
    "label.org.opencontainers.image.base.digest": "base.digest",
}
_NAMES = {"Cmd": "command", "WorkingDir": "workdir", "StopSignal": "stop_signal"}
_MAPS = {"Env": "env", "Labels": "label", "ExposedPorts": "port", "Volumes": "volume"}


@dataclass(frozen=True)
class FieldChange:
    """One field's two values as they stand in JSON; None where the field is absent."""

    field: str
    old: Any
    new: Any

    def to_json(self) -> dict[str, Any]:
        return {"field": self.field, "old": self.old, "new": self.new}


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[FieldChange, ...]:
    """The fields that differ, in the order of `old`, then those that only `new` has."""
    names = [*old, *(name for name in new if name not in old)]
    return tuple(FieldChange(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name))


def config_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an image's configuration but its layers: the base first, the history last; values of any form."""
    found = {key: value for key, value in config.items() if key not in ("config", "history", "rootfs")}
    runtime = config.get("config")
    for key, value in (runtime if isinstance(runtime, dict) else {"config": runtime}).items():
        if key in _MAPS and (entries := _entries(value)) is not None:
            found |= {f"{_MAPS[key]}.{name}": item for name, item in entries.items()}
        else:
            found[_NAMES.get(key, key.lower())] = value
    base = {name: found.pop(label) for label, name in _BASE.items() if label in found}
    return {**base, **found, "history": config.get("history")}


def _entries(value: Any) -> dict[str, Any] | None:
    """An object, or a list of "KEY=VALUE", as a mapping; None for what is neither."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return dict(item.partition("=")[::2] for item in value)
    return None


def manifest_fields(image: OciImage) -> dict[str, Any]:
    """The fields of a manifest beside the digests and sizes of what it names."""
    found = {key: value for key, value in image.manifest.items() if key not in ("config", "layers")}
    described = {"config": image.manifest["config"]}
    described |= {f"layers.{number}": item for number, item in enumerate(image.manifest["layers"])}
    for name, item in described.items():
        found |= {f"{name}.{key}": value for key, value in item.items() if key not in ("digest", "size")}
    return found
