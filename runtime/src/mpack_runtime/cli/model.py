"""Which model: the image's own, or what --model and --entrypoint name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mpack_runtime.cli.errors import Usage
from mpack_runtime.config import LoaderConfig, ModelConfig


def model_config(model: str | None = None, entrypoint: str | None = None) -> ModelConfig:
    """The image's model.json; `model`: that of a directory, or a GPPI model directory; `entrypoint`: its module."""
    if model is not None and not Path(model).is_dir():
        raise Usage(f"--model {model} is not a directory.")
    if model is None or (Path(model) / "model.json").is_file():
        config = ModelConfig.load(Path(model) / "model.json" if model is not None else None)
    elif entrypoint is None:
        raise Usage(f"--model {model} has no model.json; if it is a GPPI model, name its module with --entrypoint.")
    else:
        directory = Path(model).resolve()
        config = ModelConfig(directory.name, "0", LoaderConfig("odahu", "", {"entrypoint": entrypoint}), directory)
    if entrypoint is None:
        return config
    if config.loader.kind != "odahu":
        raise Usage(f"--entrypoint is for GPPI models; this one is loaded as {config.loader.kind}.")
    options = {**config.loader.options, "entrypoint": entrypoint}
    return replace(config, loader=replace(config.loader, options=options))
