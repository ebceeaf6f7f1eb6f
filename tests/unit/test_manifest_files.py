"""Where manifests are read from: directories with a bad file, files that are none, and text that means harm."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpack.errors import UsageError
from mpack.manifests import ManifestError, Manifests, check_packaging, read_manifests

PACKAGING = "kind: ModelPackaging\nid: {}\nspec: {{integrationName: docker-rest, artifactName: a}}\n"


def write(directory: Path, files: dict[str, str]) -> Path:
    directory.mkdir(exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text, "utf-8")
    return directory


def message(files: list[Path], directories: list[Path]) -> str:
    with pytest.raises(ManifestError) as caught:
        read_manifests(files, directories)
    return caught.value.message


def test_a_directory_with_one_bad_file(tmp_path: Path) -> None:
    """A bad manifest in a directory of good ones is an error that names it, and only it."""
    folder = write(tmp_path / "m", {f"{n}.yaml": PACKAGING.format(f"w{n}") for n in range(5)})
    (folder / "3.yaml").write_text("kind: ModelPackaging\nid: w3\n")
    assert message([], [folder]) == f"{folder}/3.yaml:1: spec: it is required"
    (folder / "3.yaml").unlink()
    assert sorted(read_manifests([], [folder]).packagings) == ["w0", "w1", "w2", "w4"]


def test_what_a_directory_may_hold_besides(tmp_path: Path) -> None:
    """Directories, hidden files and backups are not looked at; other files count if they are manifests, else are told
    of; so is a YAML file that is about something else."""
    files = {
        "a.yaml": PACKAGING.format("a"),
        "b": PACKAGING.format("b"),
        "a.yaml~": PACKAGING.format("old"),
        ".a.yaml.swp": "\0",
        "README.md": "# Manifests\n\n- one: [\n",
        "conda.yaml": "name: env\ndependencies: [python=3.11]\n",
        "empty.yaml": "# nothing yet\n",
    }
    folder = write(tmp_path / "m", files)
    write(folder / "more", {"c.yaml": PACKAGING.format("c")})
    os.mkfifo(folder / "pipe")
    found = read_manifests([], [folder])
    assert sorted(found.packagings) == ["a", "b"]
    assert found.warnings == tuple(
        f"{folder}/{name} is no manifest and is passed over." for name in ("README.md", "conda.yaml", "pipe")
    )
    (folder / "conda.yaml").write_text("id: c\nspec: {}\n")
    assert "conda.yaml:1: kind: it is required" in message([], [folder])


def test_the_later_document_of_an_id_wins(tmp_path: Path) -> None:
    """It is warned of, unless both say the same; a file that is named twice is read once."""
    folder = write(tmp_path / "m", {"a.yaml": PACKAGING.format("w"), "b.yaml": PACKAGING.format("w")})
    assert read_manifests([folder / "a.yaml"], [folder]).warnings == ()
    (folder / "b.yaml").write_text(PACKAGING.format("w").replace("artifactName: a", "artifactName: b"))
    found = read_manifests([folder / "a.yaml"], [folder])
    assert found.packagings["w"].artifact_name == "b"
    assert found.warnings == (f"ModelPackaging w of {folder}/a.yaml:1 is replaced by that of {folder}/b.yaml:1.",)


def test_a_file_may_be_a_directory_and_not_the_other_way_round(tmp_path: Path) -> None:
    """-f takes both; -d takes directories."""
    folder = write(tmp_path / "m", {"a.yaml": PACKAGING.format("w")})
    assert list(read_manifests([folder], []).packagings) == ["w"]
    assert "a.yaml: it is not a directory; name a file with -f" in message([], [folder / "a.yaml"])


def unusual(tmp_path: Path) -> dict[str, tuple[Callable[[Path], Any], str]]:
    return {
        "missing": (lambda path: None, "No such file or directory"),
        "dangling": (lambda path: path.symlink_to("nowhere"), "No such file or directory"),
        "loop": (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
        "pipe": (os.mkfifo, "it is a pipe"),
        "device": (lambda path: path.symlink_to("/dev/zero"), "it is a device"),
        "utf16": (lambda path: path.write_bytes(PACKAGING.format("w").encode("utf-16")), "it is UTF-16"),
        "latin1": (lambda path: path.write_bytes(b"kind: x\nid: \xe9\n"), "it is not UTF-8 (line 2)"),
        "null": (lambda path: path.write_bytes(b"kind: x\nid: a\0b\n"), "it holds a null byte (line 2)"),
        "large": (lambda path: path.write_bytes(b"#" * (5 << 20)), "larger than 4 MiB"),
        "control": (lambda path: path.write_bytes(b"kind: x\nid: a\x07\n"), "it holds the character U+0007"),
        "surrogate": (lambda path: path.write_text('{"kind": "\\ud800"}'), "surrogate"),
    }


@pytest.mark.parametrize("name", unusual(Path()))
def test_files_that_are_no_text(name: str, tmp_path: Path) -> None:
    """Whatever stands in place of a file, the reason is told, in no time, alone and in a directory."""
    make, reason = unusual(tmp_path)[name]
    path = tmp_path / "x.yaml"
    make(path)
    start = time.monotonic()
    assert reason in message([path], [])
    if name != "missing":
        assert reason in message([], [tmp_path])
    assert time.monotonic() - start < 5


def test_a_byte_order_mark_and_carriage_returns(tmp_path: Path) -> None:
    """Both are as if they were not there."""
    path = tmp_path / "m.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + PACKAGING.format("w").replace("\n", "\r\n").encode())
    assert list(read_manifests([path]).packagings) == ["w"]


GROWING = {
    "aliases": "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)),
    "merges": "a0: &a0 {k: 1, l: 2}\n"
    + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 30)),
    "chain": "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 200)),
    "deep list": "[" * 100_000,
    "deep mapping": "{a: " * 100_000,
    "deep json": "[" * 100_000 + "]" * 100_000,
    "deep json mapping": '{"a":' * 50_000 + "1" + "}" * 50_000,
    "deep blocks": "".join(f"{' ' * n}a:\n" for n in range(300)),
    "long number": "a: " + "9" * 1_000_000,
    "wide": "[" + "1," * 300_000 + "1]",
    "fields": "kind: ModelPackaging\nid: w\nspec:\n" + "".join(f"  artefactNam{n}: x\n" for n in range(30_000)),
    "targets": "kind: ModelPackaging\nid: w\nspec:\n  targets:\n" + "  - {name: a}\n" * 30_000,
    "properties": "kind: PackagingIntegration\nid: w\nspec:\n  schema:\n    arguments:\n      properties:\n"
    + "".join(f"        - {{name: a{n}, parameters: []}}\n" for n in range(15_000)),
    "uri": f"kind: Connection\nid: w\nspec: {{type: s3, uri: 'a://{':' * 500_000}'}}\n",
    "json keys": "{" + ",".join(f'"k{n % 40_000}": "\\/"' for n in range(80_000)) + "}",
    "documents": "---\nkind: x\n" * 20_000,
}


@pytest.mark.parametrize("name", GROWING)
def test_text_that_grows(name: str, tmp_path: Path) -> None:
    """What would take more than it is written is refused soon, with the file's name."""
    path = tmp_path / "m.yaml"
    path.write_text(GROWING[name])
    start = time.monotonic()
    assert f"{path}:" in message([path], [])
    assert time.monotonic() - start < 30


def test_secrets_are_in_no_message(tmp_path: Path) -> None:
    """A password in clear, in the wrong place or of the wrong type is not repeated."""
    for spec in (
        "{type: docker, uri: r.example.com, username: u, password: hunter2!}",
        "{type: docker, uri: r.example.com, username: u, password: {hunter2: hunter2}}",
        "{type: docker, uri: r.example.com, username: u, password: 0o777_hunter2}",
        "{type: docker, uri: 'u:hunter2@r.example.com', username: u, password: cGFzc3dvcmQ=}",
        "{type: git, uri: 'https://u:hunter2@r.example.com/x'}",
        "hunter2",
        "[hunter2]",
    ):
        path = tmp_path / "m.yaml"
        path.write_text(f"kind: Connection\nid: a\nspec: {spec}\n")
        assert "hunter2" not in message([path], [])
    path.write_text("hunter2\n")
    assert "hunter2" not in message([path], [])


def test_what_a_terminal_obeys_is_written_out(tmp_path: Path) -> None:
    """Escapes and line ends in names of files and fields are shown, not printed."""
    path = tmp_path / "m\n.yaml"
    path.write_text('kind: Connection\nid: a\n"\\e[2J\\n": 1\nspec: {type: git, uri: x}\n')
    assert message([path], []).endswith(
        "m\\n.yaml:3: \\x1b[2J\\n: no field of this name is known; there are "
        "apiVersion, createdAt, deletionMark, id, kind, spec, status, updatedAt"
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(["docker-ci", "docker-rest", "custom", "docker-push", "port", "", "wine", "$ENV", "cGFzcw=="])
LIKELY = st.sampled_from(["type", "default", "minimum", "enum", "pattern", "items", "$ref", "format", "properties"])
VALUES = JSON | NAMES | st.sampled_from(["1Gi", "100m", "integer", "docker", "ecr", "s3", "/docker-rest"])


def objects(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(names), VALUES, max_size=len(names))


PAIRS = st.fixed_dictionaries({"name": NAMES | LIKELY, "value": VALUES})
PROPERTY = st.fixed_dictionaries({"name": NAMES, "parameters": st.lists(PAIRS, max_size=4)})
TARGET = st.fixed_dictionaries({"name": NAMES, "connectionTypes": st.lists(st.sampled_from(["docker", "s3"]))})
SCHEMA = st.fixed_dictionaries(
    {"targets": st.lists(TARGET, max_size=2) | JSON},
    optional={"arguments": st.fixed_dictionaries({"properties": st.lists(PROPERTY, max_size=3) | JSON})},
)
SPECS = {
    "ModelPackaging": objects("arguments", "targets", "resources", "outputConnection", "image", "nodeSelector"),
    "Connection": objects("type", "uri", "region", "username", "password", "keyID", "keySecret", "role", "vital"),
    "PackagingIntegration": objects("privileged", "description").flatmap(
        lambda some: st.fixed_dictionaries(
            {"entrypoint": st.just("docker-rest"), "defaultImage": st.just("x"), "schema": SCHEMA | JSON}
        ).map(lambda spec: {**some, **spec})
    ),
}


def documents() -> st.SearchStrategy[Any]:
    likely = [
        st.fixed_dictionaries({"kind": st.just(kind), "id": NAMES | VALUES, "spec": spec | JSON})
        for kind, spec in SPECS.items()
    ]
    whole = st.fixed_dictionaries(
        {
            "kind": st.just("ModelPackaging"),
            "id": st.just("wine"),
            "spec": st.fixed_dictionaries(
                {"integrationName": NAMES, "artifactName": st.just("a")},
                optional={"arguments": st.dictionaries(NAMES, VALUES, max_size=3), "targets": st.just([])},
            ),
        }
    )
    return st.one_of(*likely, whole, JSON)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(st.lists(documents(), max_size=4), st.booleans())
def test_any_document(tmp_path_factory: pytest.TempPathFactory, found: list[Any], lines: bool) -> None:
    """Whatever JSON says, it gives manifests or an error with faults, and so does each packaging."""
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    texts = [json.dumps(item) for item in found]
    path.write_text("\n---\n".join(texts) if lines else json.dumps(found), "utf-8")
    try:
        manifests = read_manifests([path])
    except ManifestError as error:
        assert error.faults and str(path) in error.message
        return
    assert isinstance(manifests, Manifests)
    for name in manifests.packagings:
        try:
            check_packaging(manifests, name, output=False)
        except (ManifestError, UsageError) as error:
            assert error.message


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet=st.sampled_from("ab:[]{},&*!<-?|>'\"#% \n\t\\\u00e91.~kid"), max_size=60))
def test_any_text(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Whatever a file says, it is read or refused."""
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, "utf-8")
    try:
        assert isinstance(read_manifests([path]), Manifests)
    except ManifestError as error:
        assert error.faults
