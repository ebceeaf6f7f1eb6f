"""Bases with a Triton server: what is taken of the wheel, which base is picked and why, what a base must have."""

from __future__ import annotations

import socket
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mpack.bases import Bases
from mpack.bases import bases as bases_module
from mpack.bases import wheel as wheel_module
from mpack.bases.build import build_recipe_image, named_recipe, recipe_name
from mpack.bases.recipe import KINDS, known_python, make_recipe, minors
from mpack.bases.sources import check_answers, fetch_by_digest
from mpack.bases.wheel import unpack_wheel, wheel_entries
from mpack.env.lockfile import LockInputs
from mpack.errors import EnvironmentFault, InputError
from mpack.oci.image import OciImage, canonical_json
from mpack.oci.layer import Entry
from mpack.oci.store import Store
from mpack.spec import BaseWish

HERE = "linux/amd64"
SERVER = "/opt/tritonserver/bin/tritonserver"
ONNX = "/opt/tritonserver/backends/onnxruntime"
OWN = "mpack-triton:python3.11"
NVIDIA = "nvcr.io/nvidia/tritonserver:25.01-py3"
#: A registry that refuses at once: nothing listens on port 1.
NOWHERE = "localhost:1/none:1"
WISH = BaseWish(kind="triton")


def image_of(store: Store, python: str, *paths: str) -> OciImage:
    """An image with an interpreter of that version and empty files at `paths`."""
    binary = b"\x7fELF\0" + python.encode() + b"\0"
    entries = [Entry(f"/usr/bin/python{python.rpartition('.')[0]}", mode=0o755, size=len(binary), source=binary)]
    layer = store.write_layer([*entries, *(Entry(path, source=b"") for path in paths)], kind="base")
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
    }
    return store.put_image(canonical_json(config), (layer,))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Recipes are built from nothing: names in the order in which they were built."""
    names: list[str] = []

    def build(store: Store, recipe: Any, platform: str, say: Any) -> OciImage:
        names.append(recipe_name(recipe, platform))
        image = image_of(store, recipe.python + ".2", SERVER)
        store.add_image(image, [names[-1]], role="base")
        return image

    monkeypatch.setattr(bases_module, "build_recipe_image", build)
    return names


def test_recipe_extends_the_plain_one() -> None:
    """All of the plain base and more: libpython, a shell, the server on PATH, and only of one wheel with its hash."""
    for minor in minors():
        plain, triton = make_recipe(minor), make_recipe(minor, kind="triton")
        assert set(triton.own) - set(plain.own) == {f"libpython{minor}", "bash", "zlib1g"}
        assert dict(triton.links)["usr/bin/sh"] == "bash" and set(plain.links) <= set(triton.links)
        assert dict(triton.env)["PATH"].split(":")[0] == str(Path(SERVER).parent)
        assert plain.wheel is None and triton.wheel is not None and len(triton.wheel.sha256) == 64
        assert named_recipe(recipe_name(triton, HERE), HERE) == triton != plain
    assert KINDS == ("python", "triton")


@pytest.mark.parametrize(
    ("path", "own", "out"),
    [
        ("usr/bin/bash", True, False),
        ("usr/bin/python3.11", True, False),
        ("usr/bin/which", True, True),
        ("usr/share/doc/bash/copyright", True, False),
        ("usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0", True, False),
        ("usr/lib/python3.11/lib-dynload/_testcapi.cpython-311-x86_64-linux-gnu.so", True, True),
        ("usr/lib/python3.11/lib-dynload/_xxsubinterpreters.cpython-311-x86_64-linux-gnu.so", True, False),
        ("etc/bash.bashrc", True, True),
    ],
)
def test_what_is_left_out(path: str, own: bool, out: bool) -> None:
    """Of the shell only the program stays."""
    assert make_recipe("3.11", kind="triton").leaves_out(path, own=own) is out


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("pytriton/tritonserver/bin/tritonserver", "opt/tritonserver/bin/tritonserver"),
        ("nvidia_pytriton.libs/libtritonserver-1.so", "opt/tritonserver/lib/libtritonserver-1.so"),
        ("nvidia_pytriton.libs/libpython3-4.13.so.1.0", None),
        (
            "pytriton/tritonserver/backends/python/libtriton_python.so",
            "opt/tritonserver/backends/python/libtriton_python.so",
        ),
        (
            "pytriton/tritonserver/python_backend_stubs/3.13/triton_python_backend_stub",
            "opt/tritonserver/backends/python/triton_python_backend_stub",
        ),
        ("pytriton/tritonserver/python_backend_stubs/3.11/triton_python_backend_stub", None),
        ("pytriton/triton.py", None),
        ("nvidia_pytriton-0.7.0.dist-info/licenses/LICENSE", "usr/share/doc/nvidia-pytriton/LICENSE"),
        ("nvidia_pytriton-0.7.0.dist-info/RECORD", None),
    ],
)
def test_what_is_taken_of_the_wheel(path: str, place: str | None) -> None:
    """The server, its libraries, the Python backend with the stub of one Python, the licence."""
    wheel = make_recipe("3.13", kind="triton").wheel
    assert wheel is not None and wheel.place(path) == place


def test_unpacked_wheel(tmp_path: Path) -> None:
    """Modes by rule whatever the archive says; a wheel without what the recipe names is refused."""
    wheel = make_recipe("3.11", kind="triton").wheel
    assert wheel is not None
    path = tmp_path / "some.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for _, source in wheel.files:
            info = zipfile.ZipInfo(source + "file" if source.endswith("/") else source)
            info.external_attr = (0o100777 if "bin/" in source else 0o100666) << 16
            archive.writestr(info, source)
        archive.writestr("../escape", "no")
    entries = {entry.path: entry for entry in unpack_wheel(wheel, path, tmp_path / "files")}
    assert entries[SERVER].mode == 0o755 and entries["/opt/tritonserver/lib/file"].mode == 0o644
    assert len(entries) == len(wheel.files) and not any("escape" in place for place in entries)
    other = replace(wheel, files=(*wheel.files, ("opt/x", "missing/x")))
    with pytest.raises(EnvironmentFault, match=r"some\.whl has no missing/x"):
        unpack_wheel(other, path, tmp_path / "again")


def test_wheel_that_the_index_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the wheel and its hash and what to do instead; no advice about locks."""

    def refuse(*_: object) -> list[Path]:
        raise InputError("requirements-unavailable", "No matching distribution found.", "Lock again.")

    monkeypatch.setattr(wheel_module, "pip_download", refuse)
    wheel = make_recipe("3.11", kind="triton").wheel
    assert wheel is not None
    with (
        pytest.raises(EnvironmentFault, match=r"nvidia-pytriton 0\.7\.0 \(sha256 21f0.*No matching") as caught,
        wheel_entries(wheel, "3.11", HERE),
    ):
        pass
    assert caught.value.code == "base-unavailable" and "--base" in caught.value.hint


def test_arm64_is_refused_before_any_download(store: Store) -> None:
    """There is no wheel for arm64: said at once."""
    said: list[str] = []
    with pytest.raises(InputError, match=r"for linux/amd64 only: .* has no wheel for linux/arm64") as caught:
        build_recipe_image(store, make_recipe("3.11", kind="triton"), "linux/arm64", said.append)
    assert caught.value.code == "base-unsuitable" and said == []


def pick(store: Store, wish: BaseWish, python: str | None = "3.11") -> tuple[str, list[str]]:
    """The picked base's reference, and what was said."""
    said: list[str] = []
    return Bases(store, None, say=said.append).pick(python, HERE, wish).reference, said


def test_own_base_without_a_wish(store: Store, built: list[str]) -> None:
    """Nothing asked for: the recipe; another kind than the plain base."""
    assert pick(store, WISH) == (OWN, []) and pick(store, WISH, None) == (OWN, [])
    assert pick(store, BaseWish())[0] == "mpack-base:python3.11" and built == [OWN, "mpack-base:python3.11"]


def test_users_base(store: Store) -> None:
    """The user's reference wins over the preferred one, and must have a server."""
    store.add_image(image_of(store, "3.12.3", SERVER), ["mine:1"])
    store.add_image(image_of(store, "3.11.2"), ["bare:1"])
    assert pick(store, replace(WISH, reference="mine:1", preferred=NVIDIA), None) == ("mine:1", [])
    with pytest.raises(InputError, match=rf"bare:1 has no {SERVER}") as caught:
        pick(store, replace(WISH, reference="bare:1"))
    assert caught.value.code == "base-unsuitable"


def test_preferred_base(store: Store, built: list[str]) -> None:
    """Taken where it is at hand and fits, with a line that says so."""
    store.add_image(image_of(store, "3.12.3", SERVER), [NVIDIA])
    for python in ("3.12", None):
        assert pick(store, replace(WISH, preferred=NVIDIA), python) == (NVIDIA, [f"taking the base {NVIDIA}"])
    assert built == []


@pytest.mark.parametrize(
    ("preferred", "changes", "why"),
    [
        (NVIDIA, {}, "it has Python 3.12, the model needs 3.11."),
        ("other:1", {}, "it has Python 3.12.3, the model needs 3.11."),
        ("fits:1", {"system_packages": ("git",)}, "system packages cannot be added to it."),
        ("bare:1", {}, f"it has no {SERVER}."),
        (NOWHERE, {}, "The registry localhost:1 does not answer."),
    ],
)
def test_preferred_base_that_does_not_do(
    store: Store, built: list[str], preferred: str, changes: dict[str, Any], why: str
) -> None:
    """Else mpack's own, with a line that tells which and why; NVIDIA's image is not even looked for."""
    store.add_image(image_of(store, "3.12.3", SERVER), ["other:1"])
    store.add_image(image_of(store, "3.11.9", SERVER), ["fits:1"])
    store.add_image(image_of(store, "3.11.4"), ["bare:1"])
    reference, said = pick(store, replace(WISH, preferred=preferred, **changes))
    assert reference.startswith(OWN) and len(built) == 1
    [line] = said
    assert line.startswith(f"taking mpack's own base instead of {preferred}: ") and line.endswith(why)


def test_silent_registry_costs_little() -> None:
    """A registry that takes the connection and says nothing is given up in the time allowed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        started = time.monotonic()
        with pytest.raises(EnvironmentFault, match=r"127\.0\.0\.1:\d+ does not answer") as caught:
            check_answers(f"127.0.0.1:{server.getsockname()[1]}/x:1", 0.3)
        assert time.monotonic() - started < 2 and caught.value.code == "registry-failed"


def test_needs(store: Store, built: list[str]) -> None:
    """Paths that an image needs are looked up in the user's base, in the preferred one, and in mpack's own."""
    store.add_image(image_of(store, "3.12.3", SERVER, f"{ONNX}/libtriton_onnxruntime.so"), [NVIDIA])
    wish = replace(WISH, needs=(ONNX,))
    assert pick(store, replace(wish, preferred=NVIDIA), "3.12")[0] == NVIDIA
    for other in (wish, replace(wish, preferred=NVIDIA)):
        with pytest.raises(InputError, match=f"The base {OWN} has no {ONNX}") as caught:
            pick(store, other)
        assert caught.value.code == "base-unsuitable" and "--base" in caught.value.hint
    bases = Bases(store, None)
    base = bases.inspect(NVIDIA, HERE)
    assert bases.has(base, ONNX) and not bases.has(base, "/opt/tritonserver/backends/pytorch")


def test_failed_recipe_is_no_slim_image(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """python:X.Y-slim has no server: the error stays. Nor is there another minor of mpack's own."""

    def cannot(*_: object) -> None:
        raise EnvironmentFault("tool-missing", "apt-get is missing.", "Install apt.")

    monkeypatch.setattr(bases_module, "build_recipe_image", cannot)
    store.add_image(image_of(store, "3.11.9"), ["python:3.11-slim"])
    with pytest.raises(EnvironmentFault) as fault:
        pick(store, WISH)
    assert fault.value.message == "apt-get is missing."
    with pytest.raises(InputError, match=r"Python 3\.9 is at hand: mpack builds 3\.11, 3\.13") as caught:
        pick(store, WISH, "3.9")
    assert caught.value.code == "python-unavailable"


@pytest.mark.parametrize(
    ("reference", "python"),
    [
        ("nvcr.io/nvidia/tritonserver:20.11-py3", None),
        ("nvcr.io/nvidia/tritonserver:22.02-py3-min", "3.8"),
        ("nvcr.io/nvidia/tritonserver:23.05-py3", "3.10"),
        ("nvcr.io/nvidia/tritonserver:24.10-py3", "3.10"),
        ("nvcr.io/nvidia/tritonserver:26.03-py3", "3.12"),
        ("nvcr.io/nvidia/tritonserver:latest", None),
        ("mine.example/nvidia/tritonserver:24.12-py3", None),
    ],
)
def test_known_pythons(reference: str, python: str | None) -> None:
    """By release, only for NVIDIA's own repository; what the table does not know is found out from the image."""
    assert known_python(reference) == python


def test_own_name_is_not_asked_for_in_a_registry(store: Store) -> None:
    """A lock's base of a recipe that is not at hand is never looked for elsewhere."""
    assert fetch_by_digest(OWN, "sha256:" + "0" * 64, HERE, store, None, print) == (None, "")


def test_locks_tell_the_wishes_apart() -> None:
    """Kind, preferred reference and needs each make another entry; plain wishes keep the key that they had."""
    wishes = [
        BaseWish(),
        WISH,
        replace(WISH, preferred=NVIDIA),
        replace(WISH, needs=(ONNX,)),
        replace(WISH, reference=NVIDIA),
    ]
    keys = [LockInputs("p", HERE, "3.11", wish, True, ()).key for wish in wishes]
    assert len(set(keys)) == len(keys) and keys[0] == f"p {HERE} python=3.11 base=auto"
