"""What is installed: told as `importlib.metadata` tells it, by whatever road it is found."""

from __future__ import annotations

import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from mpack.installed import EntryPoint, entry_points, requires, version

GROUPS = ("mpack.formats", "mpack.packagers")


def ours(group: str) -> set[tuple[str, str, str]]:
    """(name, value, distribution) of the entry points on the path as it is now."""
    return {(point.name, point.value, point.distribution) for point in entry_points(group, tuple(sys.path))}


def theirs(group: str) -> set[tuple[str, str, str]]:
    """The same by the standard library."""
    return {
        (point.name, point.value, f"{point.dist.name} {point.dist.version}" if point.dist else "")
        for point in metadata.entry_points(group=group)
    }


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is first on the path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def install(site: Path, folder: str, name: str, points: str = "", *, file: str = "METADATA") -> None:
    """A distribution's metadata as installers write it."""
    info = site / folder
    info.mkdir()
    (info / file).write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\nRequires-Dist: a>=1 ; extra == 'x'\n\nVersion: 9\n"
    )
    (info / "entry_points.txt").write_text(f"[console_scripts]\nx = y:z\n\n[{GROUPS[0]}]\n{points}")


@pytest.mark.parametrize("group", GROUPS)
def test_what_is_there(group: str) -> None:
    """mpack's own plugins and whatever else this environment has."""
    assert ours(group) == theirs(group) and len(ours(group)) >= 3


def test_distributions() -> None:
    """Versions and requirements of what mpack asks for, and the same error for what is not there."""
    for name in ("mpack", "mpack-packagers", "mpack-runtime", "click"):
        assert (version(name), requires(name)) == (metadata.version(name), metadata.requires(name) or [])
    with pytest.raises(metadata.PackageNotFoundError):
        version("no-such-distribution")


@pytest.mark.parametrize(
    ("folder", "file"),
    [("Some.Thing-1.5.dist-info", "METADATA"), ("some_thing-1.5-py3.11.egg-info", "PKG-INFO")],
)
def test_an_installation(folder: str, file: str, site: Path) -> None:
    """Wheels and what setuptools leaves; comments and blanks in the file; the first on the path of one name counts."""
    install(site, folder, "Some.Thing", "# none\n\n toy = good:Toy \nother=good.deep:Outer.Inner [extra]\n", file=file)
    assert {("toy", "good:Toy"), ("other", "good.deep:Outer.Inner [extra]")} <= {item[:2] for item in ours(GROUPS[0])}
    assert {item[:2] for item in ours(GROUPS[0])} == {item[:2] for item in theirs(GROUPS[0])}
    assert version("some-thing") == "1.5" and requires("some-thing") == metadata.requires("some-thing")
    sys.path.append(str(site / "more"))
    (site / "more").mkdir()
    install(site / "more", "some_thing-2.dist-info", "Some.Thing", "hidden = good:Hidden\n")
    assert ours(GROUPS[0]) >= {("toy", "good:Toy", "Some.Thing 1.5")} or file == "PKG-INFO"
    assert {item[:2] for item in ours(GROUPS[0])} == {item[:2] for item in theirs(GROUPS[0])}
    sys.path.remove(str(site / "more"))


def test_an_archive_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin in a zip file is found, and so are all others."""
    install(tmp_path, "zipped-1.5.dist-info", "zipped", "toy = good:Toy\n")
    with zipfile.ZipFile(tmp_path / "site.zip", "w") as archive:
        for path in (tmp_path / "zipped-1.5.dist-info").iterdir():
            archive.write(path, path.relative_to(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path / "site.zip"))
    assert ("toy", "good:Toy", "zipped 1.5") in ours(GROUPS[0])
    assert ours(GROUPS[0]) == theirs(GROUPS[0])


def test_load() -> None:
    """An entry point gives its object; one that is not there is an error."""
    assert EntryPoint("x", "mpack.installed:EntryPoint.load [more]", None).load() is EntryPoint.load
    assert EntryPoint("x", "mpack.installed", None).load() is sys.modules["mpack.installed"]
    with pytest.raises(AttributeError):
        EntryPoint("x", "mpack.installed:nothing", None).load()
