"""docker-rest: the model behind a REST service (/api/model/info, /api/model/invoke) on mpack's runtime."""

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
from mpack.spec import BaseWish, HealthCheck, ImageConfig, ImageSpec

if TYPE_CHECKING:
    from mpack.packager import Arguments
    from mpack_docker_rest.arguments import RestArguments


#: What the arguments are where none is given.
DEFAULTS = {
    **COMMON,
    "port": 5000,
    "timeout": 60,
    "workers": 1,
    "threads": 4,
    "host": "0.0.0.0",  # noqa: S104
    "strict": False,
    "maxBodyBytes": 64 << 20,
    "grpc": False,
    "arrow": False,
    "queue": 64,
    "queueTimeout": 10,
    "batching": "auto",
    "maxBatchRows": None,
    "maxBatchDelay": 0,
    "jwt": False,
    "logStorage": None,
    "tracing": False,
}
GRPC_PORT = 9000

#: Before this version, reading a stream could run code that its sender wrote.
PYARROW = "pyarrow>=14.0.1"


class DockerRest:
    """The packager of entry point `docker-rest`."""

    name: ClassVar[str] = "docker-rest"
    summary: ClassVar[str] = "REST service on Flask and gunicorn: /api/model/info, /api/model/invoke"
    defaults: ClassVar[dict[str, Any]] = DEFAULTS
    targets: ClassVar[tuple[str, ...]] = ("docker", "store", "oci", "oci-archive", "docker-archive", "registry")
    optimizes: ClassVar[bool] = True
    template: ClassVar[Path] = Path(__file__).with_name("Dockerfile.j2")

    @property
    def arguments(self) -> type[Arguments]:
        from mpack_docker_rest.arguments import RestArguments

        return RestArguments

    def accepts(self, artifact: Artifact) -> str | None:
        return "only a Triton server can load it; package it with docker-triton" if artifact.needs_triton else None

    def spec(self, artifact: Artifact, arguments: RestArguments) -> ImageSpec:
        """What the image must hold: model, runtime, its requirements, and gunicorn's settings as environment."""
        serving = {"strict": arguments.strict, **({"arrow": True} if arguments.arrow else {})}
        trees, contents = serving_trees(artifact, serving)
        description = artifact.description
        needs = description.needs | ({PYARROW} if arguments.arrow else frozenset())
        config = ImageConfig(
            env=serving_env(
                {
                    "MPACK_HOST": arguments.host,
                    "MPACK_PORT": arguments.port,
                    "MPACK_WORKERS": arguments.workers,
                    "MPACK_THREADS": arguments.threads,
                    "MPACK_TIMEOUT": arguments.timeout,
                    "MPACK_MAX_BODY": arguments.maxBodyBytes,
                    **({"MPACK_GRPC_PORT": GRPC_PORT} if arguments.grpc else {}),
                    **_load(arguments),
                }
            ),
            ports=(arguments.port, GRPC_PORT) if arguments.grpc else (arguments.port,),
            entrypoint=ENTRYPOINT,
            command=("serve",),
            healthcheck=HealthCheck((*ENTRYPOINT, "health")),
        )
        return ImageSpec(
            packager=self.name,
            model_name=artifact.name,
            model_version=artifact.version,
            python=artifact.python,
            requirements=(
                *description.requirements,
                *runtime_requirements("rest", needs),
                *(item for extra in _extras(arguments) for item in runtime_requirements(extra)),
            ),
            base=BaseWish(arguments.dockerfileBaseImage or artifact.base, system_packages=artifact.system_packages),
            trees=trees,
            config=with_model_labels(config, artifact, self.name),
            contents=contents,
            conda=description.conda,
        )


def _load(arguments: RestArguments) -> dict[str, object]:
    """Settings of queue and batching that are not the runtime's own defaults."""
    given = {
        "MPACK_QUEUE": (arguments.queue, "queue"),
        "MPACK_QUEUE_TIMEOUT": (arguments.queueTimeout, "queueTimeout"),
        "MPACK_BATCHING": (arguments.batching, "batching"),
        "MPACK_MAX_BATCH_ROWS": (arguments.maxBatchRows, "maxBatchRows"),
        "MPACK_MAX_BATCH_DELAY": (arguments.maxBatchDelay, "maxBatchDelay"),
    }
    return {name: value for name, (value, argument) in given.items() if value != DEFAULTS[argument]}


def _extras(arguments: RestArguments) -> list[str]:
    """The runtime's extras that arguments ask for."""
    asked = {"grpc": arguments.grpc, "jwt": arguments.jwt, "tracing": arguments.tracing}
    storage = [arguments.logStorage] if arguments.logStorage else []
    return [*(extra for extra, given in asked.items() if given), *storage]
