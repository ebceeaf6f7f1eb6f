"""Suggested caches against a small index: what no resolution allows is not suggested, other Pythons are told apart."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest

from mpack.bases import deps
from mpack.env.index import IndexSettings
from mpack.env.lock import lock_environment
from mpack.plan import BaseImage
from mpack.progress import Progress
from mpack.spec import BaseWish, Requirement
from mpack.suggest import Member, requirements_text, suggest
from mpack.testing.wheels import make_wheel

LARGE = {"large.py": "x" * 5000}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> IndexSettings:
    """old needs x 1 and new needs x 2, so they cannot be together; both are larger than x; the runtime needs served."""
    links = tmp_path_factory.mktemp("links")
    for version in ("1.0", "2.0"):
        make_wheel(links, "x", version)
    make_wheel(links, "old", "1.0", LARGE, requires=("x<2",))
    make_wheel(links, "new", "1.0", {"new.py": "x" * 6000}, requires=("x>=2",))
    make_wheel(links, "served", "1.0")
    return IndexSettings(no_index=True, find_links=(links.as_uri(),))


@pytest.fixture
def workshop(index: IndexSettings, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An index and a bare base of any Python."""
    monkeypatch.setattr(deps, "runtime_requirements", lambda extra: (Requirement("served", "runtime", "runtime"),))
    bases = SimpleNamespace(
        pick=lambda python, platform, wish: BaseImage(
            "base:1", "sha256:0", platform, "/usr/bin/python3", f"{python}.1", ("/usr/lib/python3/dist-packages",)
        ),
        packages=lambda base: {},
    )
    return SimpleNamespace(index=index, bases=bases)


def member(index: IndexSettings, name: str, *lines: str, python: str = "3.11") -> Member:
    wanted = [Requirement(line, "model") for line in lines]
    environment = lock_environment(wanted, python=python, platform="linux/amd64", index=index)
    return Member(name, environment, BaseWish())


def test_versions_that_cannot_be_together(workshop: Any, index: IndexSettings) -> None:
    """Two large packages do not resolve together: the heavier one with its x is taken, the other is second."""
    members = [member(index, f"{name}{number}", name) for name in ("old", "new") for number in range(2)]
    said = io.StringIO()
    first, second = suggest(members, None, workshop, Progress(1, said))
    assert "do not go together" in said.getvalue()
    assert set(first.packages) == {("new", "1.0"), ("x", "2.0")}
    assert set(second.packages) == {("old", "1.0"), ("x", "1.0")}
    assert [first.saved(item) > 6000 for item in members] == [False, False, True, True]
    assert first.total == sum(map(first.saved, members)) > second.total
    assert first.brought > 0, "the runtime's package, which no member has"
    text = requirements_text(first)
    assert "\nnew==1.0  # 2 artifacts, " in text and "old" not in text


def test_other_pythons_have_other_caches(workshop: Any, index: IndexSettings) -> None:
    """Artifacts of two Pythons share nothing, whatever they have; one alone needs no cache."""
    members = [member(index, "a", "x"), member(index, "b", "x"), *(member(index, "c", "new", python="3.13"),)]
    found = suggest(members, None, workshop, Progress(1, io.StringIO()))
    assert [(item.cache.python, item.packages) for item in found] == [("3.11", (("x", "2.0"),))]
    assert suggest(members[1:], None, workshop, Progress(1, io.StringIO())) == []
