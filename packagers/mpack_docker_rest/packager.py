"""docker-rest: the model behind a REST service (/api/model/info, /api/model/invoke) on mpack's runtime."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from mpack.artifact.model import Artifact
from mpack.packager import Arguments
from mpack.serving import (
    ENTRYPOINT,
    runtime_requirements,
    serving_env,
    serving_trees,
    with_model_labels,
)
from mpack.spec import BaseWish, HealthCheck, ImageConfig, ImageSpec


class RestArguments(Arguments):
    """Arguments of docker-rest, named and typed as ODAHU's docker-rest integration has them, and a few more."""

    port: int = Field(default=5000, ge=1, le=65535, description="TCP port the service listens on.")
    timeout: int = Field(default=60, ge=1, le=86400, description="Seconds a request may take.")
    workers: int = Field(default=1, ge=1, le=512, description="gunicorn worker processes.")
    threads: int = Field(default=4, ge=1, le=512, description="Threads of each worker.")
    host: str = Field(default="0.0.0.0", min_length=1, description="Address the service binds.")  # noqa: S104
    strict: bool = Field(default=False, description="Refuse columns that the signature does not name.")
    maxBodyBytes: int = Field(default=64 << 20, ge=1024, description="Largest request body, after decompression.")


class DockerRest:
    """The packager of entry point `docker-rest`."""

    name: ClassVar[str] = "docker-rest"
    summary: ClassVar[str] = "REST service on Flask and gunicorn: /api/model/info, /api/model/invoke"
    arguments: ClassVar[type[Arguments]] = RestArguments
    targets: ClassVar[tuple[str, ...]] = ("docker", "store", "oci", "oci-archive", "docker-archive", "registry")
    template: ClassVar[Path] = Path(__file__).with_name("Dockerfile.j2")

    def accepts(self, artifact: Artifact) -> str | None:
        return "only a Triton server can load it; package it with docker-triton" if artifact.needs_triton else None

    def spec(self, artifact: Artifact, arguments: Arguments) -> ImageSpec:
        """What the image must hold: model, runtime, its requirements, and gunicorn's settings as environment."""
        assert isinstance(arguments, RestArguments)
        trees, contents = serving_trees(artifact, {"strict": arguments.strict})
        description = artifact.description
        config = ImageConfig(
            env=serving_env(
                {
                    "MPACK_HOST": arguments.host,
                    "MPACK_PORT": arguments.port,
                    "MPACK_WORKERS": arguments.workers,
                    "MPACK_THREADS": arguments.threads,
                    "MPACK_TIMEOUT": arguments.timeout,
                    "MPACK_MAX_BODY": arguments.maxBodyBytes,
                }
            ),
            ports=(arguments.port,),
            entrypoint=ENTRYPOINT,
            command=("serve",),
            healthcheck=HealthCheck((*ENTRYPOINT, "health")),
        )
        return ImageSpec(
            packager=self.name,
            model_name=artifact.name,
            model_version=artifact.version,
            python=artifact.python,
            requirements=(*description.requirements, *runtime_requirements("rest", description.needs)),
            base=BaseWish(arguments.dockerfileBaseImage or artifact.base, system_packages=artifact.system_packages),
            trees=trees,
            config=with_model_labels(config, artifact, self.name),
            contents=contents,
        )
