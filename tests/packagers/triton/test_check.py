"""Configurations that Triton would load, or refuse late or badly: each with the field and the line that is named."""

from __future__ import annotations

import time
from typing import Any

import pytest
from mpack_docker_triton.check import Subject, check_repository, faults
from mpack_docker_triton.modelconfig import parse

from mpack.errors import InputError
from mpack.signature import Signature, Tensor

IO = """
input { name: "x" data_type: TYPE_FP32 dims: -1 }
output { name: "y" data_type: TYPE_FP32 dims: -1 }
"""
PYTHON = 'backend: "python"' + IO  # line 1, lines 2 and 3
FILES = ("1/model.py", "labels.txt")


def subject(text: str, name: str = "m", **other: Any) -> Subject:
    values = {"versions": ("1",), "files": FILES, **other}
    return Subject(name=name, path=f"{name}/config.pbtxt", config=parse(text, "x"), text=text, **values)


def told(*subjects: Subject, level: str = "fault") -> list[tuple[int, str]]:
    return [(fault.line, fault.field) for fault in faults(subjects) if fault.level == level]


ONNX = {
    "files": ("1/model.onnx",),
    "signature": Signature((Tensor("x", "float32", (-1, 4)),), (Tensor("y", "int64", (-1,)),)),
}
ORT = 'backend: "onnxruntime"\n'

# what -> (config.pbtxt, what else is known, [(line, field), …])
BROKEN: dict[str, tuple[str, dict[str, Any], list[tuple[int, str]]]] = {
    "name is not the directory's": (PYTHON + 'name: "other"', {}, [(4, "name")]),
    "two inputs of one name": (
        PYTHON + 'input { data_type: TYPE_FP32 dims: 1\n name: "x" }',
        {},
        [(5, "input[1].name")],
    ),
    "two outputs of one name": (
        PYTHON + 'output { name: "y" data_type: TYPE_FP32 dims: 1 }',
        {},
        [(4, "output[1].name")],
    ),
    "no outputs": ('backend: "python"\ninput { name: "x" data_type: TYPE_FP32 dims: 1 }', {}, [(1, "output")]),
    "nothing at all": ("", {}, [(1, "input"), (1, "output")]),
    "dims missing": (
        PYTHON + 'input {\n name: "z" data_type: TYPE_FP32 }',
        {},
        [(4, "input[1].dims")],
    ),
    "dims 0": (
        PYTHON + 'output { name: "z" data_type: TYPE_FP32 dims: [2,\n0] }',
        {},
        [(5, "output[1].dims[1]")],
    ),
    "dims -2": (PYTHON + 'input { name: "z" data_type: TYPE_FP32 dims: -2 }', {}, [(4, "input[1].dims[0]")]),
    "type missing": (PYTHON + 'input { name: "z" dims: 2 }', {}, [(4, "input[1].data_type")]),
    "input without name": (PYTHON + "input { data_type: TYPE_BOOL dims: 2 }", {}, [(4, "input[1].name")]),
    "unknown backend": ('\nbackend: "pyhton"' + IO, {}, [(2, "backend")]),
    "two model files and no backend": (IO, {"files": ("1/model.py", "1/model.onnx")}, [(1, "backend")]),
    "no model file and no backend": (IO, {"files": ("1/weights",)}, [(1, "backend")]),
    "platform of another backend": (PYTHON + 'platform: "onnxruntime_onnx"', {}, [(4, "platform")]),
    "unknown platform": (PYTHON + 'platform: "onnxruntime"', {}, [(4, "platform")]),
    "no model.py in the version": (PYTHON, {"files": ("1/module.py",)}, [(1, "backend")]),
    "no model.py in the newest version": (
        PYTHON,
        {"files": ("9/model.py", "10/module.py"), "versions": ("9", "10")},
        [(1, "backend")],
    ),
    "default_model_filename missing": (
        PYTHON + 'default_model_filename: "other.py"',
        {},
        [(4, "default_model_filename")],
    ),
    "cc_model_filenames missing": (
        PYTHON + 'cc_model_filenames { key: "7.5" value: "a.py" }',
        {},
        [(4, "cc_model_filenames")],
    ),
    "label file missing": (
        PYTHON + 'output { name: "z" data_type: TYPE_FP32 dims: 1\n label_filename: "l.txt" }',
        {},
        [(5, "output[1].label_filename")],
    ),
    "a version that is not there": (
        PYTHON + "version_policy { specific {\n versions: [1,\n 7] } }",
        {},
        [(6, "version_policy.specific.versions[1]")],
    ),
    "no version is loaded": (
        PYTHON + "version_policy { latest { num_versions: 0 } }",
        {},
        [(4, "version_policy.latest.num_versions")],
    ),
    "negative max_batch_size": (PYTHON + "max_batch_size: -1", {}, [(4, "max_batch_size")]),
    "batching without max_batch_size": (PYTHON + "dynamic_batching {}", {}, [(4, "dynamic_batching")]),
    "preferred size too large": (
        PYTHON + "max_batch_size: 4\ndynamic_batching {\n preferred_batch_size: [4, 8]\n}",
        {},
        [(6, "dynamic_batching.preferred_batch_size[1]")],
    ),
    "preferred size 0": (
        PYTHON + "max_batch_size: 4\ndynamic_batching { preferred_batch_size: 0 }",
        {},
        [(5, "dynamic_batching.preferred_batch_size[0]")],
    ),
    "priority without default": (
        PYTHON + "max_batch_size: 4\ndynamic_batching { priority_levels: 2 }",
        {},
        [(5, "dynamic_batching.default_priority_level")],
    ),
    "0 instances": (PYTHON + "instance_group { count: 0 }", {}, [(4, "instance_group[0].count")]),
    "-1 instances": (
        PYTHON + "instance_group [ { count: 1 },\n { count: -1 } ]",
        {},
        [(5, "instance_group[1].count")],
    ),
    "instance groups of one name": (
        PYTHON + 'instance_group { name: "a" }\ninstance_group { name: "a" }',
        {},
        [(5, "instance_group[1].name")],
    ),
    "GPUs for the CPU": (
        PYTHON + "instance_group { kind: KIND_CPU gpus: [0] }",
        {},
        [(4, "instance_group[0].gpus")],
    ),
    "a parameter twice": (
        PYTHON + 'parameters { key: "a" }\nparameters {\n value {} key: "a" }',
        {},
        [(6, "parameters[1].key")],
    ),
    "a packed environment": (
        PYTHON + 'parameters { key: "EXECUTION_ENV_PATH" value { string_value: "/env.tar.gz" } }',
        {},
        [(4, "parameters[0]")],
    ),
    "warm-up of an unknown input": (
        PYTHON + 'model_warmup {\n inputs { key: "x" }\n inputs { key: "zz" } }',
        {},
        [(6, "model_warmup[0].inputs[1]")],
    ),
    "reshape of another size": (
        PYTHON + 'input { name: "z" data_type: TYPE_FP32 dims: 4\n reshape { shape: 3 } }',
        {},
        [(5, "input[1].reshape")],
    ),
    "reshape that frees a size": (
        PYTHON + 'input { name: "z" data_type: TYPE_FP32 dims: [-1, 2] reshape { shape: -1 } }',
        {},
        [(4, "input[1].reshape")],
    ),
    "a scalar without batching": (
        PYTHON + 'input { name: "z" data_type: TYPE_FP32 dims: 1 reshape {} }',
        {},
        [(4, "input[1].reshape")],
    ),
    "pytorch places": (
        'backend: "pytorch"\ninput [\n { name: "IN__0" data_type: TYPE_FP32 dims: 1 },\n'
        ' { name: "IN__0x" data_type: TYPE_FP32 dims: 1 } ]\n'
        'output [ { name: "OUT__1" data_type: TYPE_FP32 dims: 1 } ]',
        {"files": ("1/model.pt",)},
        [(4, "input[1].name"), (5, "output[0].name")],
    ),
    "an output that the file does not have": (
        ORT + 'output {\n name: "z" data_type: TYPE_INT64 dims: -1 }',
        ONNX,
        [(3, "output[0].name")],
    ),
    "a type that the file does not have": (
        ORT + 'output { name: "y"\n data_type: TYPE_FP32 dims: -1 }',
        ONNX,
        [(3, "output[0].data_type")],
    ),
    "a shape that the file does not have": (
        ORT + 'input { name: "x" data_type: TYPE_FP32\n dims: [-1, 5] }',
        ONNX,
        [(3, "input[0].dims")],
    ),
    "the batch dimension counted twice": (
        ORT + 'max_batch_size: 8\ninput { name: "x" data_type: TYPE_FP32 dims: [-1, 4] }',
        ONNX,
        [(3, "input[0].dims")],
    ),
    "an input left out": (
        ORT + 'input { name: "x" data_type: TYPE_FP32 dims: [-1, 4] }',
        {**ONNX, "signature": Signature((Tensor("x", "float32", (-1, 4)), Tensor("k", "int64", (1,))))},
        [(2, "input")],
    ),
    "several at once": (
        'name: "other"\n' + PYTHON + "max_batch_size: -3\ninstance_group { count: -1 }",
        {},
        [(1, "name"), (5, "max_batch_size"), (6, "instance_group[0].count")],
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_faults_are_named_by_line_and_field(what: str) -> None:
    text, other, expected = BROKEN[what]
    broken = subject(text, **other)
    assert told(broken) == expected
    with pytest.raises(InputError) as caught:
        check_repository([broken])
    assert caught.value.code == "artifact-invalid"
    for line, field in expected:
        assert f"m/config.pbtxt:{line}: {field}: " in caught.value.message


SOUND: dict[str, tuple[str, dict[str, Any]]] = {
    "a plain model": (PYTHON, {}),
    "its own name": (PYTHON + 'name: "m"', {}),
    "input and output of one name": (PYTHON + 'output { name: "x" data_type: TYPE_FP32 dims: 1 }', {}),
    "completed by model.py": ('backend: "python" dynamic_batching {}', {"completes": True}),
    "completed by the backend": ("dynamic_batching {}", ONNX),
    "backend by the file": (IO, {}),
    "platform alone": (
        'platform: "tensorflow_graphdef"' + IO,
        {"files": ("1/model.graphdef",)},
    ),
    "a directory as the model": ('backend: "tensorflow"', {"files": ("1/model.savedmodel/saved_model.pb",)}),
    "a backend of one's own": ('backend: "mine"' + IO, {"files": ("1/libtriton_mine.so",)}),
    "instances not counted": (PYTHON + "instance_group { kind: KIND_CPU }", {}),
    "versions by number, not text": (PYTHON, {"files": ("9/x", "10/model.py"), "versions": ("9", "10")}),
    "a version chosen": (
        PYTHON + "version_policy { specific { versions: 2 } }",
        {"files": ("2/model.py", "3/x"), "versions": ("2", "3")},
    ),
    "labels beside the configuration": (
        PYTHON + 'output { name: "l" data_type: TYPE_FP32 dims: 1 label_filename: "labels.txt" }',
        {},
    ),
    "reshape of the same size": (
        PYTHON + 'input { name: "z" data_type: TYPE_FP32 dims: [-1, 6] reshape { shape: [2, -1, 3] } }',
        {},
    ),
    "as the file says": (
        ORT + "max_batch_size: 8 " + 'input { name: "x" data_type: TYPE_FP32 dims: 4 }'
        'output { name: "y" data_type: TYPE_INT64 dims: 1 reshape {} }',
        ONNX,
    ),
    "pytorch by order": (
        'backend: "pytorch" input { name: "a" data_type: TYPE_FP32 dims: 1 }'
        'output { name: "OUT__0" data_type: TYPE_FP32 dims: 1 }',
        {"files": ("1/model.pt",)},
    ),
}


@pytest.mark.parametrize("what", SOUND)
def test_sound_configurations_pass_without_a_word(what: str) -> None:
    text, other = SOUND[what]
    assert faults([subject(text, **other)]) == []
    assert check_repository([subject(text, **other)]) == []


def test_what_may_work_elsewhere_is_a_warning() -> None:
    gpu = subject(PYTHON + "instance_group {\n kind: KIND_GPU }")
    assert (told(gpu), told(gpu, level="warning")) == ([], [(5, "instance_group[0].kind")])
    found = check_repository([gpu])
    assert [(item.level, item.path) for item in found] == [("warning", "m/config.pbtxt")]
    optional = subject(ORT + 'input { name: "x" data_type: TYPE_FP32 dims: [-1, 4] optional: true }', **ONNX)
    assert told(optional, level="warning") == [(2, "input[0].optional")]


def test_a_name_near_a_backend_is_proposed() -> None:
    with pytest.raises(InputError) as caught:
        check_repository([subject('backend: "pyhton"' + IO)])
    assert "Did you mean python?" in caught.value.hint


def many(text: str, count: int) -> str:
    return PYTHON + "\n" + text * count


LARGE = {
    "instance groups": (many("instance_group{}", 40_000), {}, 0),
    "warm-ups": (many("model_warmup{}", 40_000), {}, 0),
    "keys of a map": (many("parameters{}", 40_000), {}, 100),
    "versions asked for": (
        PYTHON + f"version_policy{{specific{{versions:{list(range(50_000, 90_000))}}}}}",
        {"versions": tuple(map(str, range(1, 20_000)))},
        100,
    ),
    "versions there": (
        PYTHON + "version_policy{all{}}",
        {
            "versions": tuple(map(str, range(1, 20_000))),
            "files": tuple(f"{number}/model.py" for number in range(1, 20_000)),
        },
        0,
    ),
    "label files": (
        many('output{name:"z" data_type:TYPE_FP32 dims:1 label_filename:"x"}', 10_000),
        {"files": ("1/model.py", *map(str, range(50_000)))},
        100,
    ),
    "steps": ('platform:"ensemble" ensemble_scheduling{' + 'step{model_name:"a"}' * 20_000 + "}", {}, 100),
    "a chain of steps": (
        'platform:"ensemble" input{name:"0" data_type:TYPE_FP32 dims:1} ensemble_scheduling{'
        + "".join(
            f'step{{model_name:"a" input_map{{key:"x" value:"{n}"}} output_map{{key:"y" value:"{n + 1}"}}}}'
            for n in reversed(range(5000))
        )
        + "}",
        {},
        100,
    ),
}


@pytest.mark.parametrize("what", LARGE)
def test_large_configurations_take_seconds(what: str) -> None:
    text, known, count = LARGE[what]
    begin = time.process_time()
    assert len(told(subject(text, **known))) == count
    assert time.process_time() - begin < 15  # a minute and more, if each is looked for among all


def test_warnings_hide_no_fault() -> None:
    text = many("instance_group{kind:KIND_GPU}\n", 300) + "max_batch_size: -1"
    assert [field for _, field in told(subject(text))] == ["max_batch_size"]
    assert len(told(subject(text), level="warning")) == 100


def test_what_a_name_of_a_megabyte_is_told_as() -> None:
    text = PYTHON + f'input {{ name: "{"x" * 1_000_000}" dims: 0 }}'
    with pytest.raises(InputError) as caught:
        check_repository([subject(text)])
    assert len(caught.value.message) < 5000
