"""Whether what a conda package names stays inside the environment: its paths, its links, and links of several together.

Standard library only: `worker.py`, which is run as a script, has this beside it.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any


class Refused(Exception):
    """A package that mpack does not install: what is wrong with it."""


def plain(path: str) -> str:
    """The path, if it leads nowhere else. Raises Refused."""
    name = path.removeprefix("./").rstrip("/")
    odd = not name.isprintable() or "\\" in name or len(name) > 4096 or name.count("/") > 256
    if odd or name.startswith("/") or any(part in ("", ".", "..") for part in name.split("/")):
        raise Refused(f"it has the path {path!r}")
    return name


def check_target(name: str, target: str, *, symlink: bool) -> None:
    """Raises Refused for a link that leads out of its package."""
    end = posixpath.normpath(posixpath.join(posixpath.dirname(name) if symlink else "", target))
    if not target or target.startswith("/") or end == ".." or end.startswith("../") or not target.isprintable():
        raise Refused(f"its link {name} leads to {target!r}")


def through_link(facts: Iterable[Mapping[str, Any]], site: str) -> str | None:
    """The first path of a package that leads through a link of one: links that stay inside each by itself may lead out
    together, and what is linked first would decide what is there.

    `facts` are what `worker.py` reads of packages; `site` is where noarch packages' modules go.
    """
    facts = list(facts)
    links = {_placed(fact, path, site) for fact in facts for path in fact["links"]}
    folders = (
        {posixpath.dirname(_placed(fact, path, site)) for fact in facts for path in fact["paths"]} if links else ()
    )
    return next((path for path in sorted(folders) if not links.isdisjoint(_above(path))), None)


def _above(path: str) -> Iterator[str]:
    """A directory and those above it."""
    while path:
        yield path
        path = posixpath.dirname(path)


def _placed(fact: Mapping[str, Any], path: str, site: str) -> str:
    """Where a package's file stands in the prefix."""
    if not fact["noarch"]:
        return path
    top, _, rest = path.partition("/")
    return f"{site}/{rest}" if top == "site-packages" else f"bin/{rest}" if top == "python-scripts" else path
