"""What a venv with conda packages stands on: a base, the packages for it, and which Python of both is taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from mpack.bases.libc import glibc_version
from mpack.conda.channels import Channels
from mpack.conda.solve import Solved, solve_conda
from mpack.errors import InputError
from mpack.plan import BaseImage, CondaEnvironment
from mpack.spec import ImageSpec

if TYPE_CHECKING:
    from mpack.bases import Bases
    from mpack.conda.condalock import CondaPins
    from mpack.request import ResolveOptions


def pick_with_conda(
    spec: ImageSpec,
    options: ResolveOptions,
    python: str | None,
    bases: Bases,
    pins: CondaPins | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[BaseImage, CondaEnvironment, Mapping[str, str]]:
    """The base, the locked packages, and the Python packages that a venv on them sees (name -> version).

    `python` is the minor version wanted, `pins` what the packages must be. The Python of conda, where it is among
    the packages, is the venv's; so the base may have another. Not where a server in the base has Python in itself
    (Triton): there conda's packages come on the base's Python, which must be of the same minor version. Raises what
    `Bases.pick` and `solve_conda` raise.
    """
    wish = spec.conda
    assert wish is not None
    own, platform = spec.base.kind == "python", options.platform
    unfit = None
    try:
        base = bases.pick(python, platform, spec.base)
    except InputError as error:
        if not own or error.code != "python-unavailable":
            raise
        base, unfit = bases.pick(None, platform, spec.base), error

    def solved(minor: str | None) -> Solved:
        glibc = glibc_version(bases.image(base))
        return solve_conda(
            wish,
            platform=platform,
            python=minor,
            consent=options.python is not None,
            glibc=glibc,
            channels=Channels.from_host(),
            pins=pins.packages if pins else (),
            say=say,
        )

    found = solved(python if own else base.minor)
    if unfit is not None and not found.environment.site:
        raise unfit
    if found.scripts:
        say(f"scripts of conda packages are not run: {', '.join(found.scripts)}")
    interpreter = own and bool(found.environment.site)
    below = {} if interpreter else bases.packages(base)
    return base, replace(found.environment, interpreter=interpreter), {**below, **found.provided}
