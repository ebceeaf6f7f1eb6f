"""docker-cli: the model as a command-line batch tool: `predict INPUT… OUTPUT_DIR`, `info`, `self-check`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field, field_validator

from mpack.artifact.model import Artifact
from mpack.packager import Arguments
from mpack.serving import (
    ENTRYPOINT,
    runtime_requirements,
    serving_env,
    serving_trees,
    with_model_labels,
)
from mpack.spec import BaseWish, ImageConfig, ImageSpec

FORMATS = ("json", "csv", "jsonl", "parquet")


class CliArguments(Arguments):
    """Arguments of docker-cli, named and typed as ODAHU's docker-cli integration has them, and two more."""

    formats: str = Field(default="json,csv,jsonl", description="File formats; parquet adds pyarrow (152 MB).")
    strict: bool = Field(default=False, description="Refuse columns that the signature does not name.")

    @field_validator("formats")
    @classmethod
    def _known(cls, value: str) -> str:
        words = [word.strip() for word in value.split(",")]
        unknown = [word for word in words if word not in FORMATS]
        if unknown:
            raise ValueError(f"unknown format {unknown[0]!r}; known are {', '.join(FORMATS)}")
        return ",".join(word for word in FORMATS if word in words or word == "json")


class DockerCli:
    """The packager of entry point `docker-cli`."""

    name: ClassVar[str] = "docker-cli"
    summary: ClassVar[str] = "command-line batch tool: predict INPUT… OUTPUT_DIR, info, self-check"
    arguments: ClassVar[type[Arguments]] = CliArguments
    targets: ClassVar[tuple[str, ...]] = ("docker", "store", "oci", "oci-archive", "docker-archive", "registry")
    template: ClassVar[Path] = Path(__file__).with_name("Dockerfile.j2")

    def accepts(self, artifact: Artifact) -> str | None:
        return "only a Triton server can load it; package it with docker-triton" if artifact.needs_triton else None

    def spec(self, artifact: Artifact, arguments: Arguments) -> ImageSpec:
        """What the image must hold. It starts as root and drops to OUTPUT_DIR's owner before it loads the model."""
        assert isinstance(arguments, CliArguments)
        formats = arguments.formats.split(",")
        trees, contents = serving_trees(artifact, {"strict": arguments.strict, "formats": formats})
        description = artifact.description
        needs = description.needs | ({"pyarrow"} if "parquet" in formats else set())
        return ImageSpec(
            packager=self.name,
            model_name=artifact.name,
            model_version=artifact.version,
            python=artifact.python,
            requirements=(*description.requirements, *runtime_requirements("cli", frozenset(needs))),
            base=BaseWish(arguments.dockerfileBaseImage or artifact.base, system_packages=artifact.system_packages),
            trees=trees,
            config=with_model_labels(
                ImageConfig(env=serving_env({}), user="0:0", entrypoint=ENTRYPOINT), artifact, self.name
            ),
            contents=contents,
        )
