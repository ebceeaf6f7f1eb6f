"""What is read without PyYAML and packaging is read as they read it; what is not plain is left to them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from mpack.artifact.plain import older, plain_extra, plain_line, plain_name
from mpack.artifact.plainyaml import Unplain, read_plain

FIXTURES = Path(__file__).parents[2] / "fixtures"


def both(text: str) -> tuple[Any, Any] | None:
    """(ours, PyYAML's) of a document; None where ours leaves it to PyYAML."""
    try:
        ours = read_plain(text)
    except Unplain:
        return None
    return ours, yaml.safe_load(text)


def typed(value: Any) -> Any:
    """The value with its types, for 1 == True."""
    if isinstance(value, dict):
        return {"dict": [(typed(key), typed(item)) for key, item in value.items()]}
    return {"list": [typed(item) for item in value]} if isinstance(value, list) else (type(value).__name__, value)


@pytest.mark.parametrize("name", ["mlflow-wine/model/MLmodel", "mlflow-wine/model/conda.yaml"])
def test_what_mlflow_writes_is_plain(name: str) -> None:
    """The files of an ordinary model need no PyYAML."""
    found = both((FIXTURES / "models" / name).read_text())
    assert found is not None and typed(found[0]) == typed(found[1])


def test_fixtures() -> None:
    """Whatever is plain of all fixtures is read alike."""
    files = [path for path in FIXTURES.rglob("*") if path.name == "MLmodel" or path.suffix in (".yaml", ".yml")]
    read = [found for path in files if (found := both(path.read_bytes().decode("utf-8", "replace"))) is not None]
    assert len(read) > 10
    assert all(typed(ours) == typed(theirs) for ours, theirs in read)


WORDS = (
    *("a", "b-c", "no", "null", "true", "True", "y", "~", "1", "01", "08", "0b1", "0x1", "1_0", "1.5", "1e3", "1.2.3"),
    *("12:30", "2026-01-01", ".inf", "-1", "+1", "0", "3f2a", "1e5", "a b", "a#b", "a #b", "a: b", "a:b", "'q'", "''"),
    *("'a''b'", '"d"', '"\\n"', "'open", "more'", "- x", "-", "[a]", "{a: b}", "|", ">", "&x", "*x", "!t", "%a", "@a"),
    *("x >=1,<2", "é", "<<", "=", "a,", "...", "---", "? a", "/tmp/x", "9a", "1d0", "0d1", "5e3", "0b11", "1.2.3e4"),
)


KEYS = ("k", "l", "m", "n", "o", "p", "q", "on", "a b")


def documents() -> list[str]:
    """Small documents out of all that YAML has; the same in each run."""
    chance = random.Random(7)
    made = []
    for _ in range(8000):
        lines = []
        for _ in range(chance.randint(1, 5)):
            form = chance.choice(("{k}: {v}", "{k}: {v}", "{k}:", "- {v}", "- {k}: {v}", "- {k}:", "-   {v}", "{v}"))
            # Mostly plain, else hardly any document is.
            words = WORDS[:2] if chance.random() < 0.85 else WORDS
            text = form.format(k=chance.choice(KEYS), v=chance.choice(words))
            lines.append(" " * chance.choice((0, 0, 0, 0, 0, 2, 2, 4, 1)) + text + chance.choice(("", "", "", " ")))
        made.append("\n".join(lines) + chance.choice(("", "\n")))
    return made


def test_anything_else() -> None:
    """No document is read otherwise than PyYAML does, and none that it refuses."""
    read = 0
    for text in documents():
        try:
            found = both(text)
        except yaml.YAMLError:
            pytest.fail(f"PyYAML refuses {text!r}")
        if found is not None:
            read += 1
            assert typed(found[0]) == typed(found[1]), text
    assert read > 600


@pytest.mark.parametrize(
    "text", ["k: '[1,\n  2]'", "k: '[1,\n\n  2]'", "k: 'a\n  b\n  c'\nl: x", "k: 'a\nb'", "k: 'a\n  b' c"]
)
def test_folded(text: str) -> None:
    """A quoted scalar over several lines, and what else may end a line."""
    try:
        found = both(text)
    except yaml.YAMLError:
        pytest.fail("PyYAML refuses it")
    assert found is None or typed(found[0]) == typed(found[1])


LINES = """numpy
numpy==1.2.3
scikit-learn>=1.0,<2
a.b_C<3,>=2,!=2.5,>=2
zope.interface==5
numpy==1.2.*
numpy~=1.2
numpy==1.0a1
numpy ==1
numpy[extra]==1
numpy==1;python_version<'3'
numpy===1
numpy==1.
-e .
a-
_a
numpy @ https://example.com/x.whl
""".splitlines()


@pytest.mark.parametrize("line", LINES)
def test_requirements(line: str) -> None:
    """Name and normal form are packaging's; what packaging refuses is never plain."""
    try:
        parsed = Requirement(line)
    except InvalidRequirement:
        assert plain_line(line) is None and plain_name(line) is None
        return
    assert plain_line(line) in (None, str(parsed))
    assert plain_name(line) in (None, canonicalize_name(parsed.name))


def test_most_requirements_are_plain() -> None:
    """Pins and ranges of plain releases are."""
    assert all(plain_line(line) for line in LINES[:5]) and not any(plain_line(line) for line in LINES[5:])
    assert plain_extra("flask>=2.2,<4 ; extra == 'rest'") == ("flask<4,>=2.2", "rest")
    assert plain_extra("flask>=2.2") is None and plain_extra("a; extra == 'x' or extra == 'y'") is None


@pytest.mark.parametrize("version", ["1", "1.0", "1.4.1", "1.4.2", "1.4.2.0", "1.4.2rc1", "1.10", "1!0.1", "2.0.post1"])
@pytest.mark.parametrize("bound", ["1.0", "1.4.2", "1.10", "2"])
def test_older(version: str, bound: str) -> None:
    """Versions compare as PEP 440 has it."""
    assert older(version, bound) == (Version(version) < Version(bound))
