"""Files for a Triton server that would cost a build its memory or time, or raise what nobody catches."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mpack.artifact import openvino, savedmodel, torchscript
from mpack.artifact.model import Tree, Trust
from mpack.artifact.openvino import read_ir
from mpack.artifact.savedmodel import read_saved_model
from mpack.artifact.torchscript import TorchScriptFormat
from mpack.artifact.triton import TritonFormat
from mpack.artifact.triton_layout import config_facts
from mpack.artifact.triton_schema import read_schema
from mpack.errors import InputError
from mpack.testing.trees import tree_of_files


def ir(layers: str, encoding: str = "utf-8") -> str:
    return f'<?xml version="1.0" encoding="{encoding}"?><net version="11"><layers>{layers}</layers></net>'


@pytest.mark.parametrize("encoding", ["nonsense", "utf-7", "zlib", "punycode", "idna", "undefined", "shift_jis"])
def test_an_encoding_that_python_has_and_xml_has_not(encoding: str, tmp_path: Path) -> None:
    tree = tree_of_files(tmp_path, {"a.xml": ir('<layer id="0"/>', encoding)})
    with pytest.raises(InputError, match="declares an encoding") as caught:
        read_ir(tree, "a.xml", "a.bin")
    assert caught.value.code == "artifact-corrupt"


def directory_of(entries: int) -> bytes:
    """A zip that is a directory and nothing else."""
    record = struct.Struct("<4s6H3L5H2L")
    names = [f"a/{number}".encode() for number in range(entries)]
    body = b"".join(record.pack(b"PK\x01\x02", *[0] * 9, len(name), *[0] * 6) + name for name in names)
    start = b"PK\x03\x04" + bytes(26)
    return start + body + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, entries, entries, len(body), len(start), 0)


def test_sizes_that_no_model_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "_MAX_ELEMENTS", 50)
    monkeypatch.setattr(savedmodel, "_MAX_FIELDS", 50)
    monkeypatch.setattr(torchscript, "_MAX_ENTRIES", 50)
    files = {
        "a.xml": ir("".join(f'<layer id="{number}"/>' for number in range(60))),
        "saved_model.pb": b"\x12\x00" * 60,
        "nested/saved_model.pb": b"\x12\x78" + b"\x2a\x00" * 60,
        "a.pt": directory_of(60),
    }
    tree = tree_of_files(tmp_path, files)
    script = TorchScriptFormat()
    reads: dict[str, Callable[[Tree], object]] = {
        "more than 50 elements": lambda tree: read_ir(tree, "a.xml", "a.bin"),
        "saved_model.pb is no whole SavedModel: it has more fields": lambda tree: read_saved_model(
            tree, "saved_model.pb"
        ),
        "nested/saved_model.pb is no whole": lambda tree: read_saved_model(tree, "nested/saved_model.pb"),
        "more than 50 entries": lambda tree: torchscript._names(tree, "a.pt"),
    }
    for message, read in reads.items():
        with pytest.raises(InputError, match=message):
            read(tree)
    assert script.detect(tree) == []


def test_a_config_of_open_quotes_takes_no_longer_than_it_is_long(tmp_path: Path) -> None:
    tree = tree_of_files(tmp_path, {"config.pbtxt": 'backend: "x"\n"' + r"\"" * 400_000})
    begin = time.process_time()
    assert config_facts(tree, "config.pbtxt") == {"backend": "x"}
    assert time.process_time() - begin < 5  # hours, if every quote is looked at as the first


@pytest.mark.parametrize("version", ["0x" + "f" * 5000, "2020-01-01", "[1]", "true"])
def test_versions_that_are_no_version(version: str, tmp_path: Path) -> None:
    files = {"model.plan": "x", "odahuflow.project.yaml": f"version: {version}"}
    tree = tree_of_files(tmp_path, files)
    with pytest.raises(InputError, match=r"odahuflow\.project\.yaml: version is ") as caught:
        TritonFormat().read(tree, TritonFormat().detect(tree)[0], Trust())
    assert caught.value.hint


@pytest.mark.parametrize("size", ["0", "-2", "9223372036854775808", "true", "1.0"])
def test_dimensions_of_a_schema(size: str, tmp_path: Path) -> None:
    text = f'{{"inputs": [{{"name": "x", "datatype": "FP32", "shape": [-1, {size}]}}]}}'
    with pytest.raises(InputError, match=r"inputs\[0\].shape"):
        read_schema(tree_of_files(tmp_path, {"_schema.json": text}), "_schema.json")


@pytest.mark.parametrize("name", ['"\\ud800"', '""', "null", "3", '"a\\n"'])
def test_names_of_a_schema(name: str, tmp_path: Path) -> None:
    text = f'{{"inputs": [{{"name": {name}, "datatype": "FP32", "shape": [-1]}}]}}'
    with pytest.raises(InputError, match=r"inputs\[0\].name"):
        read_schema(tree_of_files(tmp_path, {"_schema.json": text}), "_schema.json")
