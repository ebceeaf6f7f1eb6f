"""What model.json says of a Triton image:

    "serving": {"server": "triton", "repository": "/opt/mpack/repository", "model": "wine", "version": "1",
                "native": false, "models": ["wine"],
                "declared": {"wine": {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}], "outputs": []}}}

`model` is the one that a sample without a name is for, and `version` its directory, both null where several could be;
`native`: Triton alone loads it. An empty side of `declared` is not known before the server runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mpack_runtime.config import ModelConfig
from mpack_runtime.errors import LoadFailure
from mpack_runtime.v2.spec import Spec

SERVER = "triton"
Sides = tuple[tuple[Spec, ...], tuple[Spec, ...]]  # inputs, outputs


@dataclass(frozen=True)
class Serving:
    """The repository and what is in it; `declared` has inputs and outputs by model."""

    repository: Path
    model: str | None
    version: str | None
    native: bool
    models: tuple[str, ...]
    declared: Mapping[str, Sides]

    @classmethod
    def of(cls, config: ModelConfig) -> Serving:
        """Reads "serving". Raises LoadFailure where it is not of a Triton image."""
        data = config.serving
        if data.get("server") != SERVER:
            raise LoadFailure("This image has no Triton server: its model was packaged for another way to serve it.")
        try:
            return cls(
                repository=Path(data["repository"]),
                model=None if data["model"] is None else str(data["model"]),
                version=None if data["version"] is None else str(data["version"]),
                native=bool(data["native"]),
                models=tuple(map(str, data["models"])),
                declared={
                    str(name): (_specs(sides.get("inputs")), _specs(sides.get("outputs")))
                    for name, sides in (data.get("declared") or {}).items()
                },
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise LoadFailure(
                f'The "serving" of model.json is not of the form that this runtime reads: {error!r}.'
            ) from error


def _specs(items: object) -> tuple[Spec, ...]:
    if not isinstance(items, (list, tuple)):
        return ()
    return tuple(Spec(item["name"], item["datatype"], tuple(map(int, item["shape"]))) for item in items)
