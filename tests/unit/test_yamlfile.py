"""YAML documents are read once: what is kept is what PyYAML said, and nothing that JSON would change."""

from __future__ import annotations

import time
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from mpack.artifact import fullyaml, yamlfile
from mpack.artifact.yamlfile import load_yaml
from mpack.paths import cache_dir
from mpack.supply.jsonfiles import prune

PLAIN = "name: wine\nversion: 1.0\nflags: [true, null, 2, 2.5, '3']\n"


@pytest.fixture(autouse=True)
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that PyYAML has read."""
    monkeypatch.setenv("MPACK_HOME", str(tmp_path))
    monkeypatch.setattr(yamlfile, "yaml_dir", lambda: cache_dir() / "yaml")
    texts: list[str] = []
    parse = fullyaml.parse_yaml

    def parse_yaml(text: str) -> Any:
        texts.append(text)
        return parse(text)

    monkeypatch.setattr(fullyaml, "parse_yaml", parse_yaml)
    return texts


def test_read_once(read: list[str]) -> None:
    """The same text gives the same document, types included, without PyYAML; another text is read."""
    first, second = load_yaml(PLAIN), load_yaml(PLAIN)
    assert repr(first) == repr(second) and first["version"] == 1.0 and first["flags"][0] is True
    assert read == [PLAIN]
    assert load_yaml(PLAIN + "more: 1\n")["more"] == 1 and len(read) == 2


@pytest.mark.parametrize(
    "text", ["day: 2026-01-01\n", "1: one\n", "value: .nan\n", "value: .inf\n", "a: !!binary aGk=\n"]
)
def test_what_json_would_change_is_read_each_time(text: str, read: list[str]) -> None:
    """Dates, keys that are no text, numbers that JSON has not."""
    assert repr(load_yaml(text)) == repr(load_yaml(text))
    assert read == [text, text] and not list(yamlfile.yaml_dir().glob("*"))
    assert load_yaml("day: 2026-01-01")["day"] == date(2026, 1, 1)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff" * 9])
def test_a_damaged_entry_is_made_again(content: bytes, read: list[str]) -> None:
    """What a crash left is not believed."""
    whole = load_yaml(PLAIN)
    (entry,) = yamlfile.yaml_dir().iterdir()
    entry.write_bytes(content)
    assert load_yaml(PLAIN) == load_yaml(PLAIN) == whole and read == [PLAIN] * 2


def test_what_is_not_yaml_is_told_each_time(read: list[str]) -> None:
    """An error is not kept."""
    for _ in range(2):
        with pytest.raises(ValueError):
            load_yaml("a: [1")
    assert len(read) == 2


def test_unused_entries_go(read: list[str]) -> None:
    """By age, as other caches."""
    load_yaml(PLAIN)
    prune(yamlfile.yaml_dir(), 3600)
    assert len(list(yamlfile.yaml_dir().iterdir())) == 1
    time.sleep(0.01)
    prune(yamlfile.yaml_dir(), 0)
    assert not list(yamlfile.yaml_dir().iterdir())


def test_without_a_home(read: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where nothing can be written, YAML is read all the same."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("MPACK_HOME", str(blocked))
    assert load_yaml(PLAIN) == load_yaml(PLAIN) and len(read) == 2
