"""The recipe of mpack's own base images, read from recipes/mpack-base.toml: what goes in, what is left out."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib.resources import files
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CA_BUNDLE = "etc/ssl/certs/ca-certificates.crt"
NONROOT = 65532


@dataclass(frozen=True)
class Recipe:
    """One base image: Debian packages of one suite with rules for what to leave out.

    `own` are the packages it asks apt for, `extra` the user's system packages; `stand_ins` count as present.
    """

    name: str
    python: str
    suite: str
    shell: bool
    own: tuple[str, ...]
    extra: tuple[str, ...]
    stand_ins: tuple[str, ...]
    files: tuple[tuple[str, str], ...]
    links: tuple[tuple[str, str], ...]
    env: tuple[tuple[str, str], ...]
    _drop: tuple[str, ...]
    _keep: tuple[str, ...]
    _drop_programs: tuple[str, ...]
    _keep_programs: tuple[str, ...]

    @property
    def variant(self) -> str:
        """ "python3.11" or "python3.11-shell"."""
        return f"python{self.python}" + ("-shell" if self.shell else "")

    def leaves_out(self, path: str, *, own: bool) -> bool:
        """True for a path (relative to the root) of a package that is not to be in the image."""
        if _matches(path, self._drop):
            return not _matches(path, self._keep)
        return own and _matches(path, self._drop_programs) and not _matches(path, self._keep_programs)


def minors() -> tuple[str, ...]:
    """The Python minors that there is a recipe for, oldest first."""
    return tuple(sorted(_document()["python"], key=lambda minor: tuple(int(part) for part in minor.split("."))))


def default_minor() -> str:
    """The minor where nothing asks for one."""
    return str(_document()["default"])


def make_recipe(python: str, *, shell: bool = False, system_packages: tuple[str, ...] = ()) -> Recipe:
    """The recipe for a Python minor. Raises KeyError for one that is not in `minors()`."""
    document = _document()
    chosen = document["python"][python]
    shell_part = document["shell"] if shell else {"packages": [], "links": {}}
    drop = document["drop"]
    extra = tuple(sorted(set(system_packages)))
    links = {**document["links"], "usr/bin/python3": f"python{python}", **shell_part["links"]}
    return Recipe(
        name=document["name"],
        python=python,
        suite=chosen["suite"],
        shell=shell,
        own=tuple(sorted([*document["common"]["packages"], *chosen["packages"], *shell_part["packages"]])),
        extra=extra,
        # A package that the user asks for must come, even one that a base can do without.
        stand_ins=tuple(name for name in document["common"]["stand_ins"] if name not in extra),
        files=tuple((path, text.lstrip("\n")) for path, text in document["files"].items()),
        links=tuple(links.items()),
        env=tuple(document["env"].items()),
        _drop=(*drop["always"], *drop["python"]),
        _keep=tuple(drop["keep"]),
        _drop_programs=() if shell else tuple(drop["programs"]),
        _keep_programs=tuple(drop["keep_programs"]),
    )


@lru_cache(maxsize=1)
def _document() -> dict[str, Any]:
    text = files("mpack.bases").joinpath("recipes", "mpack-base.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)
