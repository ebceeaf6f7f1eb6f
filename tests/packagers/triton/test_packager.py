"""What docker-triton wants of an image, by artifact and arguments: repository, model.json, base, environment."""

from __future__ import annotations

import importlib.util
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from mpack_docker_triton import repository, schema
from mpack_docker_triton.modelconfig import parse
from mpack_docker_triton.packager import CURRENT_TAG, NVIDIA, TENSORFLOW_TAG, DockerTriton, TritonArguments
from pydantic import ValidationError

from mpack.artifact.limits import Limits
from mpack.artifact.model import Artifact, Trust
from mpack.artifact.reader import read_artifact
from mpack.errors import EnvironmentFault, InputError, UsageError
from mpack.spec import ImageSpec

FIXTURES = Path(__file__).parents[3] / "fixtures"
ONNX = (FIXTURES / "models/onnx-iris/iris.onnx").read_bytes()
FLOWERS = (FIXTURES / "models/sklearn-skops/flowers.skops").read_bytes()
IO = ' input { name: "x" data_type: TYPE_FP32 dims: 1 } output { name: "y" data_type: TYPE_FP32 dims: 1 }\n'
PYTHON = 'backend: "python"' + IO
ENSEMBLE = f"""platform: "ensemble" {IO} ensemble_scheduling {{ step {{
    model_name: "a" model_version: -1 input_map {{ key: "x" value: "x" }} output_map {{ key: "y" value: "y" }} }} }}"""
TWO: dict[str, str | bytes] = {"a/config.pbtxt": PYTHON, "a/14/model.py": "", "e/config.pbtxt": ENSEMBLE}
BATCHING: dict[str, str | bytes] = {name: f"{text} max_batch_size: 4" if name.endswith("txt") else text
                                    for name, text in TWO.items()}  # fmt: skip
MLMODEL = """
flavors:
  onnx: {data: model.onnx, onnx_version: 1.16.0}
  python_function: {loader_module: mlflow.onnx, data: model.onnx, python_version: 3.11.2}
signature:
  inputs: '[{"name": "a", "type": "float"}, {"name": "b", "type": "float"}]'
"""
MLFLOW_ONNX: dict[str, str | bytes] = {"MLmodel": MLMODEL, "model.onnx": ONNX, "requirements.txt": "onnxruntime==1.20"}


def torchscript() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in ("constants.pkl", "data.pkl", "version", "code/x.py"):
            archive.writestr(f"m/{name}", "1")
    return stream.getvalue()


def artifact(directory: Path, files: Mapping[str, str | bytes]) -> Artifact:
    for name, content in files.items():
        path = directory / "thing" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    (directory / "scratch").mkdir()
    return read_artifact(str(directory / "thing"), limits=Limits(), trust=Trust(), scratch=directory / "scratch")


def wanted(directory: Path, files: Mapping[str, str | bytes], **arguments: Any) -> ImageSpec:
    return DockerTriton().spec(artifact(directory, files), TritonArguments(**arguments))


def file(spec: ImageSpec, kind: str, path: str) -> bytes:
    """A file of the layer of a kind."""
    entry = next(item for tree in spec.trees if tree.kind == kind for item in tree.files if item.path == path)
    with spec.contents.open(entry.sha256) as stream:
        return stream.read()


def serving(spec: ImageSpec) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(file(spec, "config", "model.json"))["serving"]
    return value


@pytest.mark.parametrize(
    ("files", "model", "version"),
    [
        (TWO, "e", "1"),
        ({"config.pbtxt": PYTHON, "1/model.py": "", "3/model.py": ""}, "thing", "3"),
        (
            {
                "config.pbtxt": PYTHON + "version_policy { specific { versions: 1 } }",
                "1/model.py": "",
                "3/model.py": "",
            },
            "thing",
            "1",
        ),
        ({"a/config.pbtxt": PYTHON, "a/1/model.py": "", "b/config.pbtxt": PYTHON, "b/1/model.py": ""}, None, None),
    ],
)
def test_the_model_that_is_asked_and_its_version(
    files: dict[str, str | bytes], model: str | None, version: str | None, tmp_path: Path
) -> None:
    found = serving(wanted(tmp_path, files))
    assert (found["model"], found["version"]) == (model, version)


def test_a_backend_written_in_two_strings_is_one(tmp_path: Path) -> None:
    spec = wanted(tmp_path, {"config.pbtxt": PYTHON.replace('"python"', '"pyt" "hon"'), "1/model.py": ""})
    assert spec.base.needs == ("/opt/tritonserver/backends/python/libtriton_python.so",)
    assert "numpy<2" in [item.line for item in spec.requirements]


def test_wishes_pass_over_the_ensemble(tmp_path: Path) -> None:
    spec = wanted(tmp_path, BATCHING, dynamicBatching=True, maxQueueDelay=7, instances=3)
    inner, ensemble = (parse(file(spec, "model", f"{name}/config.pbtxt"), name) for name in "ae")
    assert inner.dynamic_batching.max_queue_delay_microseconds == 7
    assert (inner.instance_group[0].count, len(ensemble.instance_group)) == (3, 0)
    assert ensemble.WhichOneof("scheduling_choice") == "ensemble_scheduling"


def test_instances_share_the_processors(tmp_path: Path) -> None:
    spec = wanted(tmp_path, {"flowers.skops": FLOWERS}, instances=3)
    assert dict(spec.config.env)["MPACK_WORKERS"] == "3"
    assert parse(file(spec, "model", "thing/config.pbtxt"), "x").instance_group[0].count == 3


def test_native_onnx_has_the_tensors_of_its_file(tmp_path: Path) -> None:
    spec = wanted(tmp_path, MLFLOW_ONNX)
    (variant,) = spec.variants
    declared = [serving(item)["declared"]["thing"]["inputs"] for item in (spec, variant.spec)]
    assert [[item["name"] for item in side] for side in declared] == [["a", "b"], ["X"]]
    assert declared[1][0]["shape"] == [-1, 4]


@pytest.mark.parametrize("backend", ["auto", "native", "python"])
def test_backends_of_an_onnx_model(backend: str, tmp_path: Path) -> None:
    spec = wanted(tmp_path, {"iris.onnx": ONNX}, backend=backend)
    assert (serving(spec)["native"], len(spec.variants)) == (backend == "native", backend == "auto")


SCALAR = '[[signature.inputs]]\nname = "x"\ndtype = "float32"\nshape = [4]\n'
REFUSED: dict[str, tuple[dict[str, str | bytes], dict[str, Any], str]] = {
    "native for a pickle": ({"flowers.skops": FLOWERS}, {"backend": "native"}, "backend=native"),
    "python for a repository": (TWO, {"backend": "python"}, "backend=python"),
    "a delay without batching": ({"iris.onnx": ONNX}, {"maxBatchSize": 0, "maxQueueDelay": 5}, "batching"),
    "batches of a model that has none": (
        {"flowers.skops": FLOWERS, "mpack.toml": SCALAR},
        {"maxBatchSize": 8},
        "first dimension of x is fixed",
    ),
    "merging in a model that has no batches": (TWO, {"dynamicBatching": True}, "max_batch_size is 0"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_arguments_that_cannot_be_had_are_not_ignored(what: str, tmp_path: Path) -> None:
    files, arguments, word = REFUSED[what]
    with pytest.raises(UsageError, match=word) as caught:
        wanted(tmp_path, files, **arguments)
    assert caught.value.code == "argument-invalid" and caught.value.hint


@pytest.mark.parametrize(
    "arguments",
    [
        {"dynamicBatching": False, "maxQueueDelay": 5},
        {"httpPort": 9000, "grpcPort": 9000},
        {"triton_base_image_tag": "24.01-py3", "base": "cpu"},
        {"triton_base_image_tag": "../x"},
        {"dockerfileBaseImage": "a", "base": "b"},
    ],
)
def test_arguments_that_contradict_each_other(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TritonArguments(**arguments)


@pytest.mark.parametrize(
    ("arguments", "own", "reference", "preferred"),
    [
        ({}, None, None, CURRENT_TAG),
        ({}, "mine:1", "mine:1", None),
        ({"base": "cpu"}, None, None, None),
        ({"base": "cpu"}, "mine:1", None, None),
        ({"base": "nvidia"}, "mine:1", f"{NVIDIA}:{CURRENT_TAG}", None),
        ({"base": "other:2"}, "mine:1", "other:2", None),
        ({"dockerfileBaseImage": "other:2"}, "mine:1", "other:2", None),
        ({"triton_base_image_tag": "24.01-py3"}, "mine:1", f"{NVIDIA}:24.01-py3", None),
    ],
)
def test_base(
    arguments: dict[str, Any], own: str | None, reference: str | None, preferred: str | None, tmp_path: Path
) -> None:
    """`own` is what mpack.toml beside the artifact asks for; an argument wins over it."""
    if own:
        (tmp_path / "thing.mpack.toml").write_text(f'base = "{own}"')
    base = wanted(tmp_path, {"flowers.skops": FLOWERS}, **arguments).base
    assert (base.reference, base.preferred) == (reference, f"{NVIDIA}:{preferred}" if preferred else None)


@pytest.mark.parametrize("name", ["model.plan", "model.graphdef"])
def test_tensorflow_wants_the_last_release_that_has_it(name: str, tmp_path: Path) -> None:
    spec = wanted(tmp_path, {f"1/{name}": "x", "config.pbtxt": IO})
    tag = TENSORFLOW_TAG if name == "model.graphdef" else CURRENT_TAG
    assert spec.base.preferred == f"{NVIDIA}:{tag}"


def test_weights_do_not_take_the_model_s_place(tmp_path: Path) -> None:
    """An ONNX file that keeps its weights in model.onnx, the name that Triton wants for the file itself."""
    found = artifact(tmp_path, {"net.onnx": ONNX, "note.txt": "weights"})
    found.description.ships["model.onnx"] = "note.txt"  # type: ignore[index]
    with pytest.raises(InputError, match="would stand beside the model as"):
        DockerTriton().spec(found, TritonArguments(backend="native"))


def test_configurations_together_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository, "MAX_CONFIGS", 100)
    with pytest.raises(InputError, match="bytes together") as caught:
        wanted(tmp_path, TWO)
    assert caught.value.code == "artifact-too-large"


def test_torchscript_needs_its_tensors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="inputs are not known") as caught:
        wanted(tmp_path, {"m.pt": torchscript()})
    assert "mpack.toml" in caught.value.hint


def test_without_protobuf_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def found(name: str, package: str | None = None) -> Any:
        if name.startswith("google"):
            raise ModuleNotFoundError(name)
        return find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", found)
    with pytest.raises(EnvironmentFault, match="tritonclient and protobuf") as caught:
        schema.pb2.__wrapped__()
    assert "mpack-packagers[triton]" in caught.value.hint
