"""docker-cli: the model as a command-line batch tool: `predict INPUT… OUTPUT_DIR`, `info`, `self-check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mpack.artifact.model import Artifact
from mpack.packager import DEFAULTS as COMMON
from mpack.serving import (
    ENTRYPOINT,
    runtime_requirements,
    serving_env,
    serving_trees,
    with_model_labels,
)
from mpack.spec import BaseWish, ImageConfig, ImageSpec

if TYPE_CHECKING:
    from mpack.packager import Arguments
    from mpack_docker_cli.arguments import CliArguments

FORMATS = ("json", "csv", "jsonl", "parquet")


#: What the arguments are where none is given.
DEFAULTS = {
    **COMMON,
    "formats": "json,csv,jsonl",
    "strict": False,
}


class DockerCli:
    """The packager of entry point `docker-cli`."""

    name: ClassVar[str] = "docker-cli"
    summary: ClassVar[str] = "command-line batch tool: predict INPUT… OUTPUT_DIR, info, self-check"
    defaults: ClassVar[dict[str, Any]] = DEFAULTS
    targets: ClassVar[tuple[str, ...]] = ("docker", "store", "oci", "oci-archive", "docker-archive", "registry")
    optimizes: ClassVar[bool] = True
    template: ClassVar[Path] = Path(__file__).with_name("Dockerfile.j2")

    @property
    def arguments(self) -> type[Arguments]:
        from mpack_docker_cli.arguments import CliArguments

        return CliArguments

    def accepts(self, artifact: Artifact) -> str | None:
        return "only a Triton server can load it; package it with docker-triton" if artifact.needs_triton else None

    def spec(self, artifact: Artifact, arguments: CliArguments) -> ImageSpec:
        """What the image must hold. It starts as root and drops to OUTPUT_DIR's owner before it loads the model."""
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
            conda=description.conda,
        )
