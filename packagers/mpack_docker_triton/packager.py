"""docker-triton: the model on NVIDIA's Triton Inference Server, by a native backend or by mpack's runtime in one."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from mpack.artifact.model import Artifact
from mpack.errors import InputError, UsageError
from mpack.packager import Arguments
from mpack.serving import (
    ENTRYPOINT,
    artifact_wheels,
    config_tree,
    model_tree,
    runtime_requirements,
    runtime_tree,
    serving_env,
    with_model_labels,
)
from mpack.spec import BaseWish, FileTree, HealthCheck, ImageConfig, ImageSpec, Requirement, Variant
from mpack_docker_triton.repository import Repository, native_onnx, native_repository, wrapped_repository

NVIDIA = "nvcr.io/nvidia/tritonserver"
#: The tag that `base=auto` and `base=nvidia` mean, and the last one with the backend tensorflow.
CURRENT_TAG = "25.08-py3"
TENSORFLOW_TAG = "25.02-py3"
ONNX_BACKEND = "/opt/tritonserver/backends/onnxruntime/libtriton_onnxruntime.so"
#: The Python backend of server 2.51 was compiled for numpy 1, and of newer ones it is not known: a model.py of the
#: user's is not guarded.
NUMPY_OF_USERS = Requirement("numpy<2", "runtime", "the Python backend of Triton")
#: The Python backend makes a directory in /tmp, wherever TMPDIR points: writable also on a read-only root.
SCRATCH = ("/tmp",)  # noqa: S108
LOG_FLAGS = {
    "error": ("--log-info=false", "--log-warning=false"),
    "warning": ("--log-info=false",),
    "info": (),
    "verbose": ("--log-verbose=1",),
}


class TritonArguments(Arguments):
    """Arguments of docker-triton: ODAHU's two (imageName, triton_base_image_tag), and Triton's usual switches."""

    triton_base_image_tag: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$",
        description=f"Tag of {NVIDIA} to build on, instead of what `base` picks (ODAHU's default was 20.11-py3).",
    )
    base: str = Field(
        default="auto",
        min_length=1,
        description="auto (NVIDIA's image if it is to be had and fits, else mpack's own), nvidia, cpu, or a reference.",
    )
    backend: Literal["auto", "native", "python"] = Field(
        default="auto", description="ONNX models: Triton's own backend, onnxruntime in its Python backend, or the best."
    )
    instances: int | None = Field(default=None, ge=1, le=1024, description="Copies of the model in the server.")
    maxBatchSize: int | None = Field(
        default=None, ge=0, le=1 << 20, description="Largest batch; 0: no batching. None: 64 where the model batches."
    )
    dynamicBatching: bool | None = Field(
        default=None, description="Merge requests that wait. None: yes where a configuration is generated."
    )
    maxQueueDelay: int | None = Field(
        default=None, ge=0, le=60_000_000, description="Microseconds a request may wait to be merged."
    )
    modelControl: Literal["none", "poll", "explicit"] = Field(
        default="none", description="Triton's --model-control-mode; the image's models are all loaded at the start."
    )
    logLevel: Literal["error", "warning", "info", "verbose"] = Field(default="info", description="What Triton logs.")
    httpPort: int = Field(default=8000, ge=1, le=65535, description="TCP port of HTTP.")
    grpcPort: int = Field(default=8001, ge=1, le=65535, description="TCP port of gRPC.")
    metricsPort: int = Field(default=8002, ge=0, le=65535, description="TCP port of the metrics; 0: none.")

    @model_validator(mode="after")
    def _agree(self) -> TritonArguments:
        ports = [port for port in (self.httpPort, self.grpcPort, self.metricsPort) if port]
        if len(set(ports)) < len(ports):
            raise ValueError("httpPort, grpcPort and metricsPort must differ")
        if self.triton_base_image_tag is not None and (self.dockerfileBaseImage or self.base != "auto"):
            raise ValueError("give either triton_base_image_tag or a base")
        if self.dockerfileBaseImage and self.base != "auto":
            raise ValueError("dockerfileBaseImage and base are the same argument")
        if self.maxQueueDelay is not None and self.dynamicBatching is False:
            raise ValueError("maxQueueDelay is for dynamic batching, which dynamicBatching=false refuses")
        return self


class DockerTriton:
    """The packager of entry point `docker-triton`."""

    name: ClassVar[str] = "docker-triton"
    summary: ClassVar[str] = "NVIDIA Triton Inference Server: V2 protocol over HTTP and gRPC, dynamic batching"
    arguments: ClassVar[type[Arguments]] = TritonArguments
    targets: ClassVar[tuple[str, ...]] = ("docker", "store", "oci", "oci-archive", "docker-archive", "registry")
    template: ClassVar[Path] = Path(__file__).with_name("Dockerfile.j2")

    def accepts(self, artifact: Artifact) -> str | None:
        return None

    def spec(self, artifact: Artifact, arguments: Arguments) -> ImageSpec:
        """What the image must hold: repository, runtime and, for a model of Python's, that model and its requirements.

        Raises InputError for a repository or a config.pbtxt that Triton would not serve.
        """
        assert isinstance(arguments, TritonArguments)
        onnx = artifact.description.loader.kind == "onnx"
        if arguments.backend == ("python" if artifact.needs_triton else "native") and not onnx:
            raise UsageError(
                "argument-invalid",
                f"backend={arguments.backend} cannot be had for {artifact.location} ({artifact.description.flavor}): "
                "only ONNX models have both.",
                "Leave the argument out.",
            )
        if artifact.needs_triton:
            return self._image(artifact, arguments, native_repository(artifact, arguments))
        if onnx and arguments.backend == "native":
            return self._image(artifact, arguments, native_onnx(artifact, arguments))
        variants = self._native(artifact, arguments) if onnx and arguments.backend == "auto" else ()
        return self._image(artifact, arguments, wrapped_repository(artifact, arguments), *variants)

    def _native(self, artifact: Artifact, arguments: TritonArguments) -> tuple[Variant, ...]:
        """The variant for a base with the ONNX backend; none where that backend cannot do what is wanted."""
        try:
            return (Variant(ONNX_BACKEND, self._image(artifact, arguments, native_onnx(artifact, arguments))),)
        except (InputError, UsageError):
            return ()

    def _image(self, artifact: Artifact, arguments: TritonArguments, made: Repository, *variants: Variant) -> ImageSpec:
        description = artifact.description
        trees = [runtime_tree()]
        if not made.native:
            trees.append(model_tree(artifact))
        trees.append((FileTree("model", made.root, made.files), made.contents))
        trees.append(config_tree(artifact, made.serving(), native=made.native))
        contents = artifact_wheels(artifact)
        for part in (*(part for _, part in trees), *(item.spec.contents for item in variants)):
            contents = contents | part
        requirements = runtime_requirements("triton", frozenset() if made.native else description.needs)
        if not made.native or made.runs_python:
            requirements = (*description.requirements, *requirements)
        if made.runs_python:
            requirements = (*requirements, NUMPY_OF_USERS)
        settings = {"MPACK_PORT": arguments.httpPort}
        if arguments.instances is not None and (made.runs_python or not made.native):
            settings["MPACK_WORKERS"] = arguments.instances  # they share the container's CPUs
        config = ImageConfig(
            env=serving_env(settings),
            ports=tuple(port for port in (arguments.httpPort, arguments.grpcPort, arguments.metricsPort) if port),
            volumes=SCRATCH,
            entrypoint=ENTRYPOINT,
            command=("triton", *_flags(arguments, made)),
            healthcheck=HealthCheck((*ENTRYPOINT, "health")),
        )
        return ImageSpec(
            packager=self.name,
            model_name=artifact.name,
            model_version=artifact.version,
            python=artifact.python if not made.native or made.runs_python else None,
            requirements=requirements,
            base=_base(artifact, arguments, made),
            trees=tuple(tree for tree, _ in trees),
            config=with_model_labels(config, artifact, self.name),
            contents=contents,
            variants=variants,
            conda=description.conda if not made.native or made.runs_python else None,
            warnings=made.warnings,
        )


def _flags(arguments: TritonArguments, made: Repository) -> tuple[str, ...]:
    metrics = (f"--metrics-port={arguments.metricsPort}",) if arguments.metricsPort else ("--allow-metrics=false",)
    control: tuple[str, ...] = ()
    if arguments.modelControl != "none":
        control = (f"--model-control-mode={arguments.modelControl}",)
    if arguments.modelControl == "explicit":
        control += tuple(f"--load-model={name}" for name in made.models)
    grpc = f"--grpc-port={arguments.grpcPort}"  # HTTP's is MPACK_PORT, so that `docker run -e` can change it
    return (grpc, *metrics, *control, *LOG_FLAGS[arguments.logLevel])


def _base(artifact: Artifact, arguments: TritonArguments, made: Repository) -> BaseWish:
    """The wish for a base: what the user named, else NVIDIA's current image where it fits, else mpack's own."""
    tensorflow = any(path.endswith("/libtriton_tensorflow.so") for path in made.needs)
    nvidia = f"{NVIDIA}:{TENSORFLOW_TAG if tensorflow else CURRENT_TAG}"
    reference: str | None = arguments.base
    if arguments.triton_base_image_tag is not None:
        reference = f"{NVIDIA}:{arguments.triton_base_image_tag}"
    elif arguments.base == "auto":
        reference = arguments.dockerfileBaseImage or artifact.base
    elif arguments.base == "cpu":
        reference = None
    elif arguments.base == "nvidia":
        reference = nvidia
    return BaseWish(
        reference,
        system_packages=artifact.system_packages,
        kind="triton",
        needs=made.needs,
        preferred=nvidia if arguments.base == "auto" and not reference else None,
    )
