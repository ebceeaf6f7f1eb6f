"""What conversion is asked of: which artifacts, in what environment, and what the artifact is afterwards."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mpack.artifact.model import Artifact, ArtifactFile, Loader
from mpack.optimize.outcome import Conversion
from mpack.serving import ENTRYPOINT, runtime_requirements, serving_env, serving_trees, with_model_labels
from mpack.spec import BaseWish, ImageConfig, ImageSpec, Requirement

#: Loaders whose models can be converted.
KINDS = ("sklearn", "xgboost", "lightgbm")
#: The conversion's entry in the lock stands under this name, where an image's stands under its packager's.
PACKAGER = "optimize-onnx"
#: Trees in float64 came with ai.onnx.ml 5, which onnxruntime has from 1.20 on.
CONVERTERS = ("onnx>=1.17,<2", "onnxruntime>=1.20,<2", "skl2onnx>=1.17,<2")
#: What the image needs to serve the graph, in the versions that the conversion was checked with.
SERVING = ("numpy", "onnxruntime")
GRAPH = "model.onnx"
_SOURCE = "--optimize onnx"


def unfit(artifact: Artifact) -> str | None:
    """Why a model is not converted, as a clause, or None."""
    description = artifact.description
    if description.loader.kind not in KINDS:
        return f"models of the loader {description.loader.kind} are not converted, those of {', '.join(KINDS)} are"
    sample = description.sample
    if sample is not None and (sample.input_file or sample.output_file):
        return "its sample is a pickle, which needs the libraries that a converted model does without"
    return None


def conversion_spec(artifact: Artifact, base: str | None) -> ImageSpec:
    """An image of the model with its own environment and the converters; `base` is the one that the user named."""
    trees, contents = serving_trees(artifact, {})
    converters = tuple(Requirement(line, "runtime", _SOURCE) for line in CONVERTERS)
    description = artifact.description
    return ImageSpec(
        packager=PACKAGER,
        model_name=artifact.name,
        model_version=artifact.version,
        python=artifact.python,
        requirements=(*description.requirements, *runtime_requirements("cli", description.needs), *converters),
        base=BaseWish(base or artifact.base, system_packages=artifact.system_packages),
        trees=trees,
        config=with_model_labels(ImageConfig(env=serving_env({}), entrypoint=ENTRYPOINT), artifact, PACKAGER),
        contents=contents,
    )


def optimized_artifact(
    artifact: Artifact, conversion: Conversion, versions: Mapping[str, str], scratch: Path
) -> Artifact:
    """The artifact with the graph, kept in `scratch`, in its model's place: same name, signature, sample and digest."""
    path = scratch / GRAPH
    path.write_bytes(conversion.graph)
    sha256 = hashlib.sha256(conversion.graph).hexdigest()
    file = ArtifactFile(f".optimized/{GRAPH}", len(conversion.graph), sha256, path)
    lines = tuple(Requirement(f"{name}=={versions[name]}", "model", _SOURCE) for name in SERVING)
    description = replace(
        artifact.description,
        requirements=lines,
        loader=Loader("onnx", GRAPH, conversion.options),
        ships={GRAPH: file.path},
        needs=frozenset(),
    )
    return replace(artifact, files=(*artifact.files, file), description=description)
