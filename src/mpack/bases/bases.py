"""Bases: the base image for a model's Python, by digest, with what its own files say of that Python."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from mpack.bases.build import build_recipe_image, find_recipe_image, named_recipe, recipe_name
from mpack.bases.interpreter import Interpreter, find_interpreter, read_base
from mpack.bases.recipe import Recipe, default_minor, known_python, make_recipe, minors
from mpack.bases.sources import fetch, fetch_by_digest
from mpack.errors import EnvironmentFault, InputError, MpackError
from mpack.oci.image import OciImage
from mpack.oci.rootfs import Files
from mpack.oci.store import Store
from mpack.plan import BaseImage
from mpack.redaction import redact
from mpack.spec import BaseWish, public_name

if TYPE_CHECKING:
    from mpack.engine import Docker
    from mpack.registry.credentials import Login


#: Codes of a recipe that cannot be built on this machine or now; then a registry is tried.
_CANNOT_BUILD = ("tool-missing", "base-unavailable", "download-failed")
#: What a base of a kind must have, besides a Python.
_NEEDS = {"python": (), "triton": ("/opt/tritonserver/bin/tritonserver",)}


def _say(text: str) -> None:
    sys.stderr.write(redact(text) + "\n")


class Bases:
    """Base images of this machine. `docker` None: no engine answers. `say` gets a line before anything slow. `login`:
    whose credentials registries get, None for Docker's."""

    def __init__(
        self, store: Store, docker: Docker | None, *, say: Callable[[str], None] = _say, login: Login | None = None
    ) -> None:
        self._store = store
        self._docker = docker
        self._say = say
        self._login = login
        self._known: dict[str, tuple[Interpreter | None, Files]] = {}

    def pick(self, python: str | None, platform: str, wish: BaseWish) -> BaseImage:
        """The base for a Python minor ("3.11"; None: any): the user's, else the preferred one if it can be had and
        fits, else one of the recipes', else python:X.Y-slim (which has no server, so for the kind "python" only).

        Raises InputError python-unavailable or base-unsuitable, EnvironmentFault base-unavailable or what building
        a recipe raises.
        """
        if wish.reference is not None:
            base = self._pick_users(wish.reference, python, platform, wish)
        else:
            preferred = self._pick_preferred(python, platform, wish)
            base = preferred or self._pick_own(python or default_minor(), platform, wish)
        missing = self._missing(base, wish)
        if missing:
            raise InputError(
                "base-unsuitable",
                f"The base {base.reference} has no {', '.join(missing)}, which this image needs.",
                "Give a base that has it with --base REF.",
            )
        return base

    def _pick_users(self, reference: str, python: str | None, platform: str, wish: BaseWish) -> BaseImage:
        if wish.system_packages:
            raise InputError(
                "base-unsuitable",
                f"System packages ({', '.join(wish.system_packages)}) cannot be added to the base {reference}.",
                "Install them in that base, or leave the base to mpack.",
            )
        base = self.inspect(reference, platform)
        if python is not None and base.minor != python:
            raise InputError(
                "python-unavailable",
                f"The base {reference} has Python {base.python_version}, the model needs {python}.",
                f"Give a base with Python {python}, or consent to another with --python {base.minor}.",
            )
        return base

    def _pick_preferred(self, python: str | None, platform: str, wish: BaseWish) -> BaseImage | None:
        """The preferred base; None, after a line that says why, where there is none to be had or it does not fit."""
        if wish.preferred is None:
            return None
        base, reason = self._try_preferred(wish.preferred, python, platform, wish)
        own = f"taking mpack's own base instead of {wish.preferred}: {reason}"
        self._say(own if base is None else f"taking the base {wish.preferred}")
        return base

    def _try_preferred(
        self, reference: str, python: str | None, platform: str, wish: BaseWish
    ) -> tuple[BaseImage | None, str]:
        if wish.system_packages:
            return None, "system packages cannot be added to it."
        known = known_python(reference)
        if None not in (known, python) and known != python:
            return None, f"it has Python {known}, the model needs {python}."
        try:
            base = self.inspect(reference, platform, patient=False)
        except MpackError as error:
            return None, error.message
        if python is not None and base.minor != python:
            return None, f"it has Python {base.python_version}, the model needs {python}."
        missing = self._missing(base, wish)
        return (None, f"it has no {', '.join(missing)}.") if missing else (base, "")

    def _missing(self, base: BaseImage, wish: BaseWish) -> list[str]:
        return [path for path in (*_NEEDS[wish.kind], *wish.needs) if not self.has(base, path)]

    def has(self, base: BaseImage, path: str) -> bool:
        """True if something stands at an absolute path of the base's root file system, links followed."""
        return self._read(self.image(base))[1].resolve(path) is not None

    def inspect(self, reference: str, platform: str, *, patient: bool = True) -> BaseImage:
        """The base of that name. Raises InputError base-unsuitable (no Python, other platform), EnvironmentFault.

        Not `patient`: a registry that does not answer at once does not have it.
        """
        recipe = named_recipe(reference, platform)
        if recipe is not None:
            image = self._recipe_image(recipe, platform)
            return self._describe(reference, image.digest, image)
        image, digest = fetch(reference, platform, self._store, self._docker, self._say, patient, self._login)
        return self._describe(public_name(reference), digest, image)

    def locked(self, base: BaseImage) -> BaseImage:
        """The base of a lock, made sure to be at hand. Raises EnvironmentFault base-unavailable naming its digest."""
        self.image(base)
        return base

    def packages(self, base: BaseImage) -> Mapping[str, str]:
        """Canonical name -> version of the distributions that the base's Python sees."""
        found = self._interpreter(self.image(base))
        return dict(found.packages) if found else {}

    def image(self, base: BaseImage) -> OciImage:
        """The base's image in the store, fetched by its digest if it is not there."""
        image, reason = fetch_by_digest(
            base.reference, base.digest, base.platform, self._store, self._docker, self._say, self._login
        )
        recipe = named_recipe(base.reference, base.platform)
        if image is None and recipe is not None:
            built = build_recipe_image(self._store, recipe, base.platform, self._say)
            image = built if built.digest == base.digest else None
            reason = f"Debian's packages of today make {built.digest}."
        if image is None:
            raise EnvironmentFault(
                "base-unavailable",
                f"The lock names the base {base.reference} as {base.digest}, which is not at hand. {reason}".rstrip(),
                "Bring that base here (a registry, or the docker engine that built it), or take today's with "
                "--update-lock.",
            )
        return image

    def _pick_own(self, minor: str, platform: str, wish: BaseWish) -> BaseImage:
        slim = f"python:{minor}-slim"
        if minor in minors():
            recipe = make_recipe(minor, kind=wish.kind, shell=wish.shell, system_packages=wish.system_packages)
            try:
                image = self._recipe_image(recipe, platform)
            except EnvironmentFault as error:
                if wish.system_packages or wish.kind != "python" or error.code not in _CANNOT_BUILD:
                    raise
                return self._pick_slim(slim, platform, error)
            return self._describe(recipe_name(recipe, platform), image.digest, image)
        if wish.kind != "python":
            raise self._no_python(minor, "NVIDIA's images with another one come from a registry (--base REF)")
        if wish.system_packages:
            raise self._no_python(minor, f"{slim} cannot take the system packages")
        try:
            return self.inspect(slim, platform)
        except MpackError as error:
            raise self._no_python(minor, f"{slim} cannot be had ({error.message})") from error

    def _pick_slim(self, slim: str, platform: str, error: EnvironmentFault) -> BaseImage:
        """The registry's image where the recipe's could not be built; the recipe's error if that fails too."""
        try:
            return self.inspect(slim, platform)
        except MpackError as second:
            message = f"{error.message} Nor can {slim} be had: {second.message}"
            raise EnvironmentFault(error.code, message, error.hint) from error

    def _no_python(self, minor: str, why: str) -> InputError:
        return InputError(
            "python-unavailable",
            f"No base image with Python {minor} is at hand: mpack builds {', '.join(minors())} itself, and {why}.",
            f"Consent to another Python with --python {default_minor()}, or give a base that has it with --base REF.",
        )

    def _recipe_image(self, recipe: Recipe, platform: str) -> OciImage:
        found = find_recipe_image(self._store, recipe, platform)
        return found or build_recipe_image(self._store, recipe, platform, self._say)

    def _describe(self, reference: str, digest: str, image: OciImage) -> BaseImage:
        found = self._interpreter(image)
        if found is None:
            raise InputError(
                "base-unsuitable",
                f"The base image {reference} has no Python: none on its PATH, none in the usual places.",
                "Give a base with Python 3, or leave --base away: mpack then picks one.",
            )
        return BaseImage(reference, digest, image.platform, found.path, found.version, found.site_dirs)

    def _interpreter(self, image: OciImage) -> Interpreter | None:
        return self._read(image)[0]

    def _read(self, image: OciImage) -> tuple[Interpreter | None, Files]:
        """What the image's layers say, read once: its Python, and its paths (without content)."""
        if image.id not in self._known:
            files = read_base(image)
            paths = Files({path: replace(node, content=None) for path, node in files.items()})
            self._known[image.id] = find_interpreter(image, files), paths
        return self._known[image.id]
