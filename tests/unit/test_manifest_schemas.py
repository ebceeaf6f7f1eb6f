"""The JSON Schemas of docs/schemas say what reading says, as far as one document tells it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from mpack.manifests.nodes import plain, read_documents

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "fixtures" / "manifests"
EXPECTED: dict[str, list[str]] = json.loads((FIXTURES / "broken" / "expected.json").read_text("utf-8"))
#: What no schema of one document sees: text, other documents, other fields' values, other packagers.
UNSEEN = {
    "faults of the text": {
        *("alias-bomb", "alias-of-itself", "alias-unknown", "duplicate-key", "json-cut-off", "json-duplicate-key"),
        *(
            "json-nan",
            "not-a-number",
            "not-yaml",
            "number-without-end",
            "python-tag",
            "tab",
            "too-deep",
            "key-not-text",
        ),
    },
    "other documents": {
        *("custom-argument-required", "custom-argument-unknown", "custom-argument-wrong", "entrypoint-unknown"),
        *("custom-argument-unknown-to-the-packager", "custom-default-refused-by-the-packager"),
        *("custom-target-default-unknown", "integration-unknown", "output-connection-of-wrong-type"),
        *("output-connection-unknown", "target-connection-of-wrong-type", "target-connection-unknown"),
        *("target-required", "target-unknown", "triton-has-no-docker-pull"),
    },
    "several fields together": {
        *(
            "arguments-disagree",
            "ecr-region-of-another-registry",
            "resources-request-above-limit",
            "schema-argument-twice",
        ),
        *("schema-default-refused", "schema-keyword-reference", "schema-keyword-wrong", "schema-required-unknown"),
        *("schema-target-twice", "target-twice", "uri-with-a-password"),
    },
    "what values mean": {
        *("resources-thousandths-of-bytes", "resources-zero", "secret-not-utf-8"),
    },
}


def schema(name: str = "manifest.json") -> Any:
    return jsonschema_rs.Draft202012Validator(json.loads((ROOT / "docs" / "schemas" / name).read_text("utf-8")))


def documents(path: Path) -> list[Any]:
    return [plain(item.node) for item in read_documents(path.read_text("utf-8"), lambda *fault: None)]


@pytest.mark.parametrize("path", [*FIXTURES.glob("*.yaml"), *FIXTURES.glob("kinds/*")], ids=lambda path: path.name)
def test_right_manifests_are_right_by_schema(path: Path) -> None:
    """Every manifest of the fixtures is valid, document by document and as a list."""
    check = schema()
    found = documents(path)
    assert found
    for document in [*found, found]:
        assert [error.message for error in check.iter_errors(document)] == []


def test_a_schema_for_each_kind() -> None:
    """The schema of one kind takes that kind, and no other."""
    names = {"ModelPackaging": "model-packaging", "PackagingIntegration": "packaging-integration"}
    for document in documents(FIXTURES / "kinds" / "all.yaml"):
        for kind, name in {**names, "Connection": "connection"}.items():
            assert schema(f"{name}.json").is_valid(document) == (document["kind"] == kind)


@pytest.mark.parametrize("name", [name for name in EXPECTED if Path(name).stem not in set().union(*UNSEEN.values())])
def test_wrong_manifests_are_wrong_by_schema(name: str) -> None:
    """Every broken manifest whose fault one document shows is refused."""
    check = schema()
    assert not all(check.is_valid(document) for document in documents(FIXTURES / "broken" / name))


def test_the_unseen_are_there() -> None:
    """What is left out of the comparison exists, and a schema does not refuse what only the check sees."""
    stems = {Path(name).stem: name for name in EXPECTED}
    check = schema()
    for reason, unseen in UNSEEN.items():
        assert unseen <= set(stems)
        for stem in unseen if "text" not in reason else ():
            assert all(check.is_valid(document) for document in documents(FIXTURES / "broken" / stems[stem])), stem
