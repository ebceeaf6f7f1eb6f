"""The recipes of mpack's own base images, read from recipes/*.toml: what goes in, what is left out."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
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


#: Kinds of base images by their recipe's file.
_FILES = {"python": "mpack-base.toml", "triton": "mpack-triton.toml"}
KINDS = tuple(_FILES)


@dataclass(frozen=True)
class Wheel:
    """Files of one wheel of the Python index. `files` are (place in the image, path in the wheel), both relative; a
    pair of directories ends in "/"."""

    name: str
    version: str
    sha256: str
    platforms: tuple[str, ...]
    files: tuple[tuple[str, str], ...]
    leave_out: tuple[str, ...]

    def place(self, path: str) -> str | None:
        """Where a path of the wheel stands in the image; None for what is not taken."""
        if _matches(path, self.leave_out):
            return None
        for target, source in self.files:
            if path == source or (source.endswith("/") and path.startswith(source)):
                return target + path.removeprefix(source)
        return None


@dataclass(frozen=True)
class Recipe:
    """One base image: Debian packages of one suite with rules for what to leave out, and perhaps files of a wheel.

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
    wheel: Wheel | None = None

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
    """The Python minors that there are recipes for, oldest first."""
    found = _document("python")["python"]
    return tuple(sorted(found, key=lambda minor: tuple(int(part) for part in minor.split("."))))


def default_minor() -> str:
    """The minor where nothing asks for one."""
    return str(_document("python")["default"])


def is_own(reference: str) -> bool:
    """True for a name that only mpack's recipes give."""
    return any(reference.startswith(f"{_document(kind)['name']}:") for kind in KINDS)


def known_python(reference: str) -> str | None:
    """The Python minor that a public server image is known to have, by its name alone; None for any other image."""
    images = _document("triton")["images"]
    found = re.fullmatch(re.escape(images["repository"]) + r":(\d\d\.\d\d)(-.+)?", reference)
    if found is None:
        return None
    return next(
        (python for release, python in sorted(images["python"].items(), reverse=True) if release <= found[1]), None
    )


def make_recipe(
    python: str, *, kind: str = "python", shell: bool = False, system_packages: tuple[str, ...] = ()
) -> Recipe:
    """The recipe of a kind for a Python minor. Raises KeyError for one that is not in `minors()`."""
    document = _document("python")
    chosen = document["python"][python]
    shell_part = document["shell"] if shell else {"packages": [], "links": {}}
    drop = document["drop"]
    extra = tuple(sorted(set(system_packages)))
    links = {**document["links"], "usr/bin/python3": f"python{python}", **shell_part["links"]}
    recipe = Recipe(
        name=document["name"],
        python=python,
        suite=chosen["suite"],
        shell=shell,
        own=tuple(sorted([*document["common"]["packages"], *chosen["packages"], *shell_part["packages"]])),
        extra=extra,
        # A package that the user asks for must come, even one that a base can do without.
        stand_ins=tuple(
            name
            for name in (*document["common"]["stand_ins"], *(() if extra else document["common"]["unneeded"]))
            if name not in extra
        ),
        files=tuple((path, text.lstrip("\n")) for path, text in document["files"].items()),
        links=tuple(links.items()),
        env=tuple(document["env"].items()),
        _drop=(*drop["always"], *drop["python"]),
        _keep=tuple(drop["keep"]),
        _drop_programs=() if shell else tuple(drop["programs"]),
        _keep_programs=tuple(drop["keep_programs"]),
    )
    return recipe if kind == "python" else _extended(recipe, _document(kind))


def _extended(recipe: Recipe, document: dict[str, Any]) -> Recipe:
    """A recipe with what the file of another kind adds to it."""
    chosen, wheel = document["python"][recipe.python], document["wheel"]
    return replace(
        recipe,
        name=document["name"],
        own=tuple(sorted({*recipe.own, *document["packages"], *chosen["packages"]})),
        links=tuple({**dict(recipe.links), **document["links"], **chosen.get("links", {})}.items()),
        env=tuple({**dict(recipe.env), **document["env"]}.items()),
        _drop=(*recipe._drop, *document["drop"]),
        _keep_programs=(*recipe._keep_programs, *document["keep_programs"]),
        wheel=Wheel(
            wheel["name"],
            wheel["version"],
            wheel["sha256"],
            tuple(wheel["platforms"]),
            tuple((place, path.format(python=recipe.python)) for place, path in wheel["files"].items()),
            tuple(wheel["leave_out"]),
        ),
    )


@lru_cache
def _document(kind: str) -> dict[str, Any]:
    text = files("mpack.bases").joinpath("recipes", _FILES[kind]).read_text(encoding="utf-8")
    return tomllib.loads(text)


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)
