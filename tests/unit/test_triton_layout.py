"""Triton's names and versions, and what is read of a config.pbtxt without parsing it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpack.artifact.triton_layout import (
    backend_of,
    config_facts,
    directory_name,
    has_number_in_front,
    is_version,
    triton_name,
    triton_version,
)
from mpack.errors import InputError
from mpack.testing.trees import tree_of_files


@pytest.mark.parametrize(
    ("text", "directory"),
    [
        ("1", "1"),
        ("10", "10"),
        ("0", "0"),
        ("1.0", "10"),
        ("1.2.3", "123"),
        ("v2-3", "23"),
        ("2026-11-21", "20261121"),
        ("release 4", "4"),
        ("-1", "1"),
        ("1e3", "13"),
        ("007", "7"),
        ("0.1", "1"),
        ("0.0", "0"),
        ("v٣1", "1"),
        ("9223372036854775807", "9223372036854775807"),
        ("0" * 500 + "5", "5"),
    ],
)
def test_version(text: str, directory: str) -> None:
    """A number is kept, else its digits are joined; what the server would not serve is brought into its form."""
    assert triton_version(text) == directory
    assert is_version(directory)


@pytest.mark.parametrize("text", ["", "latest", "v", "²", "٣", "Ⅷ", "9223372036854775808", "1" * 20, "9" * 100_000])
def test_no_version(text: str) -> None:
    """No digit from 0 to 9, or a number that ends the server."""
    with pytest.raises(InputError, match=r"Model version must be numeric|makes a number above") as caught:
        triton_version(text)
    assert caught.value.code == "artifact-invalid"
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("name", "served", "harmful"),
    [
        ("0", True, False),
        ("1", True, False),
        ("4294967297", True, False),
        ("9223372036854775807", True, False),
        ("9223372036854775808", False, True),
        ("007", False, True),
        ("00", False, True),
        ("-1", False, True),
        ("+1", False, True),
        (" 1", False, True),
        ("1.0", False, True),
        ("1x", False, True),
        ("v1", False, False),
        ("²", False, False),
        ("data", False, False),
        ("", False, False),
    ],
)
def test_version_directories(name: str, served: bool, harmful: bool) -> None:
    """As the server 2.51 took each of them: served, misread, or passed over as any other directory."""
    assert (is_version(name), has_number_in_front(name)) == (served, harmful)


@pytest.mark.parametrize("name", ["wine", "a.b-c_D9", "-dash", "_x", "1", "a..b", "x" * 200])
def test_name(name: str) -> None:
    """What a URL's segment and a directory can both be."""
    assert triton_name(name) == name
    assert directory_name(name) == name


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("", "model"),
        ("..", "model"),
        (".hidden", "hidden"),
        ("a/b", "a_b"),
        ("../../etc", "_.._etc"),
        ("red wine (1)", "red_wine_1_"),
        ("größe", "gr_e"),
        ("a\nb", "a_b"),
        ("wine\n", "wine_"),
        ("x" * 201, "x" * 200),
        ("a\0b", "a_b"),
    ],
)
def test_no_name(name: str, instead: str) -> None:
    """Refused where the author chose it, made fit where it is only a file's name."""
    with pytest.raises(InputError, match="Model name must be valid URL path segment") as caught:
        triton_name(name)
    assert caught.value.code == "artifact-invalid"
    assert triton_name(directory_name(name)) == instead


@pytest.mark.parametrize(
    ("text", "name", "backend"),
    [
        ('name: "a" backend: "python"', "a", "python"),
        ("name:'a'\nbackend:'onnxruntime'", "a", "onnxruntime"),
        ('# name: "no"\nname: "a" # backend: "x"\nplatform: "tensorflow_savedmodel"', "a", "tensorflow"),
        ('input [ { name: "x" } ] output { name: "y" }\nname: "a"', "a", None),
        ('input { name: "x{" }\nplatform: "ensemble"', None, "ensemble"),
        ('ensemble_scheduling { step [ { model_name: "m" } ] }', None, "ensemble"),
        ('backend: "identity" parameters < key: "backend" >', None, "identity"),
        ('name: "un', None, None),
        ("}}}} ]] name", None, None),
        ("", None, None),
    ],
)
def test_config_facts(text: str, name: str | None, backend: str | None, tmp_path: Path) -> None:
    """Only the top level counts; comments, quotes and braces in texts do not mislead; nonsense is no error here."""
    facts = config_facts(tree_of_files(tmp_path, {"config.pbtxt": text}), "config.pbtxt")
    assert facts.get("name") == name
    assert backend_of(facts, []) == backend
