"""Picking a base: recipes, the user's references, Python versions, locks; with a store, a fake engine, no network."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from mpack.bases import Bases
from mpack.bases import bases as bases_module
from mpack.bases.build import named_recipe, recipe_name
from mpack.bases.recipe import default_minor, make_recipe, minors
from mpack.bases.sources import same_platform
from mpack.errors import EnvironmentFault, InputError
from mpack.oci.archive import docker_archive, write_oci_directory
from mpack.oci.image import OciImage, canonical_json
from mpack.oci.layer import Entry
from mpack.oci.store import Store
from mpack.spec import BaseWish

HERE = "linux/amd64"
#: A registry that refuses at once: nothing listens on port 1.
NOWHERE = "localhost:1/none"


def python_image(store: Store, version: str, *, architecture: str = "amd64", mark: bytes = b"") -> OciImage:
    binary = b"\x7fELF" + mark + b"\0" + version.encode() + b"\0"
    layer = store.write_layer(
        [Entry(f"/usr/bin/python{version[:4]}", mode=0o755, size=len(binary), source=binary)], kind="base"
    )
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
    }
    return store.put_image(canonical_json(config), (layer,))


class FakeDocker:
    """The three calls that bases make of an engine, on images of a store."""

    def __init__(self, images: dict[str, OciImage]) -> None:
        self.images = images
        self.saved: list[str] = []

    def inspect(self, reference: str) -> dict[str, Any] | None:
        by_id = {image.id: image for image in self.images.values()}
        image = self.images.get(reference) or by_id.get(reference)
        if image is None:
            return None
        return {"Id": image.id, "Os": "linux", "Architecture": image.config["architecture"], "Variant": ""}

    @contextmanager
    def save(self, reference: str) -> Iterator[BinaryIO]:
        self.saved.append(reference)
        yield io.BytesIO(b"".join(docker_archive(self.images[reference], [reference])))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "ours")


@pytest.fixture
def theirs(tmp_path: Path) -> Store:
    return Store(tmp_path / "theirs")


def bases(store: Store, docker: FakeDocker | None = None, said: list[str] | None = None) -> Bases:
    return Bases(store, docker, say=(said if said is not None else []).append)  # type: ignore[arg-type]


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Recipes are built from nothing: names in the order in which they were built."""
    names: list[str] = []

    def build(store: Store, recipe: Any, platform: str, say: Any) -> OciImage:
        names.append(recipe_name(recipe, platform))
        image = python_image(store, recipe.python + ".2", architecture=platform.split("/")[1], mark=names[-1].encode())
        store.add_image(image, [names[-1]], role="base")
        return image

    monkeypatch.setattr(bases_module, "build_recipe_image", build)
    return names


def test_recipe_is_built_once(store: Store, built: list[str]) -> None:
    """Without a wish the model's minor by recipe, built when it is first needed; no minor means the default one."""
    first = bases(store).pick("3.13", HERE, BaseWish())
    again = bases(store).pick("3.13", HERE, BaseWish())
    assert first == again and first.reference == "mpack-base:python3.13" and first.minor == "3.13"
    assert bases(store).pick(None, HERE, BaseWish()).minor == default_minor() == "3.11"
    assert built == ["mpack-base:python3.13", "mpack-base:python3.11"]


def test_wishes_make_other_bases(store: Store, built: list[str]) -> None:
    """A shell, another platform and system packages each have a base of their own; packages in any order the same."""
    for wish in (BaseWish(shell=True), BaseWish(system_packages=("b", "a")), BaseWish(system_packages=("a", "b"))):
        bases(store).pick("3.11", HERE, wish)
    bases(store).pick("3.11", "linux/arm64", BaseWish())
    assert built[0] == "mpack-base:python3.11-shell" and built[-1] == "mpack-base:python3.11-arm64"
    assert built[1].startswith("mpack-base:python3.11-with-") and len(built) == 3


def test_own_names_never_go_to_a_registry(store: Store, built: list[str]) -> None:
    """`--base mpack-base:python3.13-shell` is built here if it is missing."""
    assert bases(store).pick("3.13", HERE, BaseWish("mpack-base:python3.13-shell")).minor == "3.13"
    assert built == ["mpack-base:python3.13-shell"]
    assert named_recipe("mpack-base:python3.9", HERE) is None


def test_slim_image_serves_other_minors(store: Store) -> None:
    """A minor without recipe comes from python:X.Y-slim, here one that the store has."""
    store.add_image(python_image(store, "3.10.4"), ["python:3.10-slim"], role="base")
    assert bases(store).pick("3.10", HERE, BaseWish()).reference == "python:3.10-slim"


def test_python_unavailable(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A minor that is nowhere: exit 1 with the available ones and the consent to another."""
    monkeypatch.setattr(bases_module, "fetch", _refuse)
    with pytest.raises(InputError, match=r"Python 3\.9 is at hand: mpack builds 3\.11, 3\.13") as caught:
        bases(store).pick("3.9", HERE, BaseWish())
    assert caught.value.code == "python-unavailable" and "--python 3.11" in caught.value.hint


def _refuse(reference: str, *rest: object) -> None:
    raise EnvironmentFault("base-unavailable", f"no {reference}.")


def test_other_minor_in_the_users_base(store: Store) -> None:
    """The user's base with another Python than the model's is refused, not silently used."""
    store.add_image(python_image(store, "3.13.1"), ["mine:1"])
    with pytest.raises(InputError, match=r"mine:1 has Python 3\.13\.1, the model needs 3\.11") as caught:
        bases(store).pick("3.11", HERE, BaseWish("mine:1"))
    assert caught.value.code == "python-unavailable" and "--python 3.13" in caught.value.hint
    assert bases(store).pick(None, HERE, BaseWish("mine:1")).minor == "3.13"


def test_recipe_falls_back_to_a_registry(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Debian's tools are missing, python:X.Y-slim is taken; if that fails too, the first error counts."""

    def cannot(*_: object) -> None:
        raise EnvironmentFault("tool-missing", "apt-get is missing.", "Install apt.")

    monkeypatch.setattr(bases_module, "build_recipe_image", cannot)
    monkeypatch.setattr(bases_module, "fetch", _refuse)
    with pytest.raises(EnvironmentFault, match=r"apt-get is missing\. Nor can python:3\.11-slim be had") as caught:
        bases(store).pick("3.11", HERE, BaseWish())
    assert caught.value.code == "tool-missing" and caught.value.hint == "Install apt."
    monkeypatch.undo()
    monkeypatch.setattr(bases_module, "build_recipe_image", cannot)
    store.add_image(python_image(store, "3.11.9"), ["python:3.11-slim"])
    assert bases(store).pick("3.11", HERE, BaseWish()).reference == "python:3.11-slim"


def test_system_packages_need_mpacks_base(store: Store) -> None:
    """Packages for a base of the user's own are refused with what to do."""
    with pytest.raises(InputError, match="git"):
        bases(store).pick("3.11", HERE, BaseWish("mine:1", system_packages=("git",)))


def test_daemon_image_is_saved_once_per_id(store: Store, theirs: Store) -> None:
    """The engine's image is named by its id, copied once, and copied again only when its name has moved."""
    old, new = python_image(theirs, "3.11.2"), python_image(theirs, "3.11.9")
    docker, said = FakeDocker({"mine:1": old}), []
    base = bases(store, docker, said).inspect("mine:1", HERE)
    assert base.digest == old.id and base == bases(store, docker, said).inspect("mine:1", HERE)
    assert docker.saved == ["mine:1"] and len(said) == 1
    docker.images["mine:1"] = new
    assert bases(store, docker).inspect("mine:1", HERE).python_version == "3.11.9"
    assert bases(store).image(base).id == old.id, "a lock's base is still at hand, without an engine"


def test_store_wins_over_daemon(store: Store, theirs: Store) -> None:
    """A reference is looked up in the store, then in the daemon."""
    store.add_image(python_image(store, "3.11.2"), ["mine:1"])
    docker = FakeDocker({"mine:1": python_image(theirs, "3.13.1")})
    assert bases(store, docker).inspect("mine:1", HERE).minor == "3.11" and docker.saved == []


def test_other_platforms(store: Store, theirs: Store) -> None:
    """A base of another platform is named as such, from the store and from the daemon."""
    arm = python_image(theirs, "3.11.2", architecture="arm64")
    with pytest.raises(InputError, match="is for linux/arm64, not for linux/amd64"):
        bases(store, FakeDocker({NOWHERE: arm})).inspect(NOWHERE, HERE)
    theirs.add_image(arm, [NOWHERE + ":latest"])
    with pytest.raises(InputError, match="is for linux/arm64, not for linux/amd64") as caught:
        bases(theirs).inspect(NOWHERE, HERE)
    assert caught.value.code == "base-unsuitable"


@pytest.mark.parametrize(
    ("has", "wanted", "fits"),
    [
        ("linux/arm64/v8", "linux/arm64", True),
        ("linux/arm64", "linux/arm64/v8", True),
        ("linux/arm/v6", "linux/arm/v7", False),
        ("linux/amd64", "linux/arm64", False),
        ("windows/amd64", "linux/amd64", False),
    ],
)
def test_same_platform(has: str, wanted: str, fits: bool) -> None:
    """A variant counts where both sides name one."""
    assert same_platform(has, wanted) is fits


def test_base_without_python(store: Store) -> None:
    """A base without Python is the user's mistake, told as such."""
    layer = store.write_layer([Entry("/bin/sh", source=b"")], kind="base")
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]}}
    store.add_image(store.put_image(canonical_json(config), (layer,)), ["bare:1"])
    with pytest.raises(InputError, match="bare:1 has no Python") as caught:
        bases(store).inspect("bare:1", HERE)
    assert caught.value.code == "base-unsuitable"


def test_oci_layout(store: Store, theirs: Store, tmp_path: Path) -> None:
    """`oci:DIR` is a base; its directory's path does not go into the plan; its lock holds when the layout is gone."""
    image = python_image(theirs, "3.11.2")
    write_oci_directory(image, tmp_path / "layout")
    base = bases(store).inspect(f"oci:{tmp_path}/layout", HERE)
    assert (base.reference, base.digest) == ("oci:layout", image.digest)
    assert bases(store).image(base).digest == image.digest
    with pytest.raises(InputError, match=r"is for linux/amd64, not for linux/arm64"):
        bases(store).inspect(f"oci:{tmp_path}/layout", "linux/arm64")
    with pytest.raises(EnvironmentFault, match="not at hand"):
        bases(Store(tmp_path / "elsewhere")).image(base)


def test_lock_of_a_recipe(store: Store, theirs: Store, built: list[str]) -> None:
    """A recipe's base that is missing is built again; if Debian has moved on, both digests are named."""
    base = bases(theirs).pick("3.11", HERE, BaseWish())
    assert bases(store).locked(base) == base, "the same packages make the same digest"
    other = type(base).from_json({**base.to_json(), "digest": "sha256:" + "0" * 64})
    with pytest.raises(EnvironmentFault, match=f"(?s)000.*{base.digest}") as caught:
        bases(store).locked(other)
    assert caught.value.code == "base-unavailable" and "--update-lock" in caught.value.hint


def test_recipes_are_complete() -> None:
    """Every recipe names Python, the CA bundle's package and the libraries that wheels need; the shell has pip."""
    assert minors() == ("3.11", "3.13")
    for minor in minors():
        plain, shell = make_recipe(minor), make_recipe(minor, shell=True)
        assert {f"python{minor}", "ca-certificates", "libgomp1", "libstdc++6", "tzdata"} <= set(plain.own)
        assert set(shell.own) - set(plain.own) >= {"dash", "coreutils", "python3-pip"}
        assert dict(plain.files)["etc/passwd"].count("65532:65532") == 1
        assert "dash" in dict(shell.links).values() and json.dumps(plain.env)


@pytest.mark.parametrize(
    ("path", "own", "out"),
    [
        ("usr/bin/python3.11", True, False),
        ("usr/bin/gzip", True, True),
        ("usr/bin/git", False, False),
        ("usr/share/doc/libc6/copyright", True, False),
        ("usr/share/doc/libc6/changelog.gz", True, True),
        ("usr/share/man/man1/git.1.gz", False, True),
        ("usr/lib/python3.11/ensurepip/__init__.py", True, True),
        ("usr/lib/python3.11/ctypes/test/__init__.py", True, True),
        ("usr/lib/python3.11/unittest/case.py", True, False),
        ("usr/lib/python3.11/json/__init__.py", True, False),
        ("usr/share/zoneinfo/Europe/Berlin", True, False),
        ("usr/share/zoneinfo/right/UTC", True, True),
        ("usr/lib/x86_64-linux-gnu/libssl.so.3", True, False),
        ("etc/cron.daily/x", False, True),
    ],
)
def test_what_is_left_out(path: str, own: bool, out: bool) -> None:
    """The published list: documentation, tests and tools go; licences, libraries and the user's programs stay."""
    assert make_recipe("3.11").leaves_out(path, own=own) is out
