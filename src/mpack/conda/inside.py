"""Whether what a conda package names stays inside the environment: its paths, its links, and links of several together.

An archive can say a thing twice, or where not all who read it look; so what counts is what it is unpacked to.

Standard library only: `worker.py`, which is run as a script, has this beside it.
"""

# os.path, not pathlib: paths of packages are text of others.
# ruff: noqa: PTH115, PTH123

from __future__ import annotations

import json
import os
import posixpath
import stat
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
    """Raises Refused for a link that leads out of its package, or would where one of the names in it is a link."""
    end = posixpath.normpath(posixpath.join(posixpath.dirname(name) if symlink else "", target))
    up = [part == ".." for part in target.split("/") if part not in ("", ".")]
    out = target.startswith("/") or end == ".." or end.startswith("../") or up != sorted(up, reverse=True)
    if not target or out or not target.isprintable():
        raise Refused(f"its link {name} leads to {target!r}")


def unpacked(folder: str) -> tuple[set[str], set[str]]:
    """(paths, links) of a package that was unpacked; of the paths also those that it only lists. Raises Refused."""
    paths, links = set(), set()
    for top, folders, files in os.walk(folder):
        for found in (*folders, *files):
            name = plain(posixpath.relpath(f"{top}/{found}", folder))
            mode = os.lstat(f"{top}/{found}").st_mode
            if stat.S_ISLNK(mode):
                if name == "info" or posixpath.dirname(name) == "info":
                    raise Refused(f"its {name} is a link")
                check_target(name, os.readlink(f"{top}/{found}"), symlink=True)
                links.add(name)
            elif not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise Refused(f"{name} is neither a file nor a link")
            if not stat.S_ISDIR(mode) and not name.startswith("info/"):
                paths.add(name)
    return paths | set(_listed(folder)), links


def _listed(folder: str) -> Iterator[str]:
    """What is linked into an environment: by info/paths.json, or by info/files in a package without one."""
    try:
        with open(f"{folder}/info/paths.json", "rb") as stream:
            for item in json.load(stream)["paths"]:
                yield plain(str(item["_path"]))
    except FileNotFoundError:
        with open(f"{folder}/info/files", encoding="utf-8") as stream:
            for line in stream:
                yield plain(line.rstrip("\r\n"))


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
