"""Ensembles: steps, the models in them, and the tensors between; what the server says of each is in check.py."""

from __future__ import annotations

import pytest
from mpack_docker_triton.check import Subject, faults
from mpack_docker_triton.modelconfig import parse

OWN = """\
platform: "ensemble"
input { name: "i" data_type: TYPE_FP32 dims: -1 }
output { name: "o" data_type: TYPE_FP32 dims: -1 }
"""


def step(model: str, inputs: dict[str, str], outputs: dict[str, str], version: str = "model_version: -1") -> str:
    """One step on one line."""
    maps = [f'input_map {{ key: "{key}" value: "{value}" }}' for key, value in inputs.items()]
    maps += [f'output_map {{ key: "{key}" value: "{value}" }}' for key, value in outputs.items()]
    return f'ensemble_scheduling_step {{ model_name: "{model}" {version} {" ".join(maps)} }}'


def steps(*lines: str) -> str:
    """The steps on lines 5, 6, … of OWN + steps(…)."""
    body = "\n".join(line.removeprefix("ensemble_scheduling_") for line in lines)
    return f"ensemble_scheduling {{\n{body}\n}}\n"


def model(name: str, source: str, target: str, datatype: str = "FP32", dims: str = "-1", more: str = "") -> Subject:
    text = (
        f'backend: "python" input {{ name: "{source}" data_type: TYPE_{datatype} dims: [{dims}] }}'
        f'output {{ name: "{target}" data_type: TYPE_{datatype} dims: [{dims}] }} {more}'
    )
    return Subject(name, f"{name}/config.pbtxt", parse(text, "x"), text, ("1", "3"), ("3/model.py",))


MODELS = (
    model("a", "x", "y"),
    model("b", "p", "q"),
    model("whole", "p", "q", "INT64"),
    model("table", "x", "y", dims="-1, 3"),
    model("two", "x", "y", more='input { name: "x2" data_type: TYPE_FP32 dims: -1 }'),
    model("by2", "x", "y", more="max_batch_size: 2"),
)
A = step("a", {"x": "i"}, {"y": "t"})
B = step("b", {"p": "t"}, {"q": "o"})
STEP = "ensemble_scheduling.step"


def ensemble(text: str, name: str = "e") -> Subject:
    return Subject(name, f"{name}/config.pbtxt", parse(text, "x"), text, ("1",))


BROKEN: dict[str, tuple[str, list[tuple[int, str]]]] = {
    "no platform": (OWN.replace('platform: "ensemble"', "") + steps(A, B), [(4, "ensemble_scheduling")]),
    "backend for platform": (OWN.replace("platform", "backend") + steps(A, B), [(4, "ensemble_scheduling")]),
    "no steps": (OWN + "ensemble_scheduling {}", [(4, "ensemble_scheduling")]),
    "no scheduling": (OWN, [(1, "ensemble_scheduling")]),
    "a model that is not there": (OWN + steps(A, step("zz", {"p": "t"}, {"q": "o"})), [(6, f"{STEP}[1].model_name")]),
    "a step without model": (OWN + steps(A, step("", {"p": "t"}, {"q": "o"})), [(6, f"{STEP}[1].model_name")]),
    "version left out": (OWN + steps(A, B.replace("model_version: -1", "")), [(6, f"{STEP}[1].model_version")]),
    "version that is not loaded": (
        OWN + steps(step("a", {"x": "i"}, {"y": "t"}, "model_version: 1"), B),
        [(5, f"{STEP}[0].model_version")],
    ),
    "input that the model has not": (
        OWN + steps(step("a", {"x": "i", "z": "i"}, {"y": "t"}), B),
        [(5, f"{STEP}[0].input_map[1].key")],
    ),
    "output that the model has not": (
        OWN + steps(A, step("b", {"p": "t"}, {"q": "o", "z": "o2"})),
        [(6, f"{STEP}[1].output_map[1].key"), (6, f"{STEP}[1].output_map[1].value")],
    ),
    "input not mapped": (OWN + steps(step("two", {"x": "i"}, {"y": "o"})), [(5, f"{STEP}[0].input_map")]),
    "no producer": (
        OWN + steps(A, B, step("a", {"x": "nope"}, {"y": "t"})),
        [(7, f"{STEP}[2].input_map[0].value"), (7, f"{STEP}[2].output_map[0].value")],
    ),
    "output not produced": (
        OWN + 'output { name: "o2" data_type: TYPE_FP32 dims: -1 }\n' + steps(A, B),
        [(4, "output[1].name")],
    ),
    "input not read": (
        OWN + 'input { name: "i2" data_type: TYPE_FP32 dims: -1 }\n' + steps(A, B),
        [(4, "input[1].name")],
    ),
    "tensor not read": (
        OWN + steps(A, B, step("a", {"x": "i"}, {"y": "u"})),
        [(7, f"{STEP}[2].output_map[0].value")],
    ),
    "written twice": (
        OWN + steps(A, B, step("a", {"x": "i"}, {"y": "o"})),
        [(7, f"{STEP}[2].output_map[0].value")],
    ),
    "a circle of steps": (
        OWN
        + steps(
            step("a", {"x": "i"}, {"y": "o"}), step("a", {"x": "u"}, {"y": "t"}), step("b", {"p": "t"}, {"q": "u"})
        ),
        [(6, f"{STEP}[1]")],
    ),
    "itself": (OWN + steps(step("e", {"i": "i"}, {"o": "o"})), [(4, "ensemble_scheduling")]),
    "type between steps": (
        OWN + steps(A, step("whole", {"p": "t"}, {"q": "o"})),
        [(3, "output[0]"), (6, f"{STEP}[1].input_map[0].value")],
    ),
    "shape": (
        OWN + steps(step("table", {"x": "i"}, {"y": "t"}), B),
        [(5, f"{STEP}[0].input_map[0].value"), (6, f"{STEP}[1].input_map[0].value")],
    ),
    "instances": (OWN + "instance_group { count: 1 }\n" + steps(A, B), [(4, "instance_group")]),
    "larger batches than a step": (
        "max_batch_size: 4\n" + OWN + steps(step("by2", {"x": "i"}, {"y": "o"})),
        [(1, "max_batch_size")],
    ),
    "batches around a model without": (
        "max_batch_size: 4\n" + OWN + steps(step("a", {"x": "i"}, {"y": "o"})),
        [(4, "output[0]"), (6, f"{STEP}[0].input_map[0].value")],
    ),
}


def told(*subjects: Subject) -> list[tuple[int, str]]:
    return [(fault.line, fault.field) for fault in faults(subjects)]


@pytest.mark.parametrize("what", BROKEN)
def test_faults_of_ensembles(what: str) -> None:
    text, expected = BROKEN[what]
    assert told(ensemble(text), *MODELS) == expected


def test_ensembles_that_contain_each_other() -> None:
    one, other = (ensemble(OWN + steps(step(name, {"i": "i"}, {"o": "o"})), mine) for mine, name in ("ef", "fe"))
    assert told(one, other) == [(4, "ensemble_scheduling")] * 2


@pytest.mark.parametrize(
    "text",
    [
        OWN + steps(A, B),
        OWN + steps(B, A),
        OWN + steps(step("by2", {"x": "i"}, {"y": "o"})),
        "max_batch_size: 2\n" + OWN + steps(step("by2", {"x": "i"}, {"y": "o"})),
        "max_batch_size: 9\n" + OWN.replace("-1", "3") + steps(step("table", {"x": "i"}, {"y": "o"})),
    ],
)
def test_sound_ensembles_pass(text: str) -> None:
    assert told(ensemble(text), *MODELS) == []
