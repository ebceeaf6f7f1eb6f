"""Text out of an artifact that costs more to read than to write: YAML, requirements, and a skops schema's names."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from mpack.artifact.conda import parse_conda
from mpack.artifact.model import Trust
from mpack.artifact.pickles import judge
from mpack.artifact.requirements import parse_requirements
from mpack.artifact.skops import read_skops
from mpack.artifact.yamlfile import load_yaml
from mpack.errors import InputError
from mpack.testing.trees import tree_of_files

ALIASES = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
MERGES = "a0: &a0 {k: 1, l: 2}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    "text",
    [
        ALIASES + "dependencies: *a11",
        ALIASES + "dependencies: [*a11]",
        MERGES + "dependencies: []",
        "dependencies: &d [*d]",
        "[" * 5000,
        "dependencies: [" + "9" * 100_000 + "]",
    ],
    ids=["list", "item", "merges", "endless", "deep", "number"],
)
def test_yaml_that_grows(text: str) -> None:
    """A few lines that stand for billions of values are refused at once, with the file's name."""
    with pytest.raises(InputError, match=r"conda\.yaml"):
        parse_conda(text, "conda.yaml")


def test_plain_aliases_are_read() -> None:
    """Anchors and merges as people write them are YAML like any other."""
    assert load_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]")["b"] == {"x": 1, "y": 2}


@pytest.mark.parametrize(
    "line", ["numpy" + " " * 100_000 + "!", "numpy; " + "(" * 3000 + "python_version>'3'" + ")" * 3000]
)
def test_long_requirements(line: str, tmp_path: Path) -> None:
    """A line whose parsing would take minutes or the whole stack is an error naming file and line."""
    tree = tree_of_files(tmp_path, {"a": b""})
    with pytest.raises(InputError, match=r"requirements\.txt:1: the line has"):
        parse_requirements(line, "requirements.txt", tree, "")


def node(value: Any) -> dict[str, Any]:
    return {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode", "content": json.dumps(value)}


def items(*values: Any) -> dict[str, Any]:
    return {
        "__class__": "list",
        "__module__": "builtins",
        "__loader__": "ListNode",
        "content": [node(x) for x in values],
    }


SCORER = {
    "__class__": "_Scorer",
    "__module__": "sklearn.metrics._scorer",
    "__loader__": "TypeNode",
    "content": "_Scorer",
}


@pytest.mark.parametrize(
    ("content", "good"),
    [
        ({"stack_method_": items("predict_proba", "predict"), "stack_method": node("auto")}, True),
        ({"importance_getter": node("named_steps.clf.coef_"), "response_method": node(None)}, True),
        ({"stack_method_": items("eval")}, False),
        ({"stack_method_": {"__class__": "tuple", "__module__": "builtins", "content": {"a": node("eval")}}}, False),
        ({"importance_getter": node("__class__.__init__")}, False),
        ({"scorer": SCORER}, False),
    ],
)
def test_methods_by_name_in_skops(content: dict[str, Any], good: bool, tmp_path: Path) -> None:
    """What scikit-learn calls by a name of the model's is judged in skops files as in pickles."""
    schema = {
        "__class__": "StackingClassifier",
        "__module__": "sklearn.ensemble._stacking",
        "__loader__": "ObjectNode",
        "content": {"__class__": "dict", "__module__": "builtins", "__loader__": "DictNode", "content": content},
    }
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("schema.json", json.dumps(schema))
    tree = tree_of_files(tmp_path / "tree", {"m.skops": (tmp_path / "zip").read_bytes()})
    scan = read_skops(tree, "m.skops").scan
    if good:
        assert judge(scan, Trust()) == ()
    else:
        with pytest.raises(InputError, match="cannot be checked"):
            judge(scan, Trust())
