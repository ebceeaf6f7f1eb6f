"""Verifying an image: its own self-check, in a sandbox, and what came of it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mpack.builders import BuiltImage
from mpack.errors import VerificationError
from mpack.plan import RUNTIME, VENV, BaseImage, Bytecode
from mpack.records import dataclass
from mpack.sandbox import Box, Sandbox, memory_limit, runs_here, this_platform

SELF_CHECK = "self-check"
#: Seconds that loading the model and answering its sample may take.
TIME_LIMIT = 900.0
#: Exit code of what the kernel killed.
KILLED = 137
#: How Python, numpy and the C++ library say that there is not enough.
_NO_MEMORY = re.compile(r"MemoryError|bad_alloc|Unable to allocate|Cannot allocate memory")


@dataclass(frozen=True)
class Verification:
    """`status` is passed, failed or skipped; `against` expected or load; `max_rel_diff` of the answers compared."""

    status: str
    against: str | None = None
    max_rel_diff: float | None = None
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "against": self.against,
            "max_rel_diff": self.max_rel_diff,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class SelfCheck:
    """What the image printed: the verification, and the interpreter and modules when they were asked for."""

    verification: Verification
    python: str = ""
    modules: tuple[str, ...] = ()


def skip_reason(image_platform: str, sandbox: Sandbox | None) -> str | None:
    """Why an image cannot be verified here, or None."""
    if not runs_here(image_platform):
        return f"the image is for {image_platform}, this machine is {this_platform()}"
    if sandbox is None:
        return "neither a container engine nor runc is at hand to run the model in"
    return None


def verify(image: BuiltImage, sandbox: Sandbox, *, modules: bool = False) -> SelfCheck:
    """Runs the image's self-check once. A failed check is a result, not an exception."""
    with sandbox.open(image) as box:
        return run_self_check(box, modules=modules)


def run_self_check(box: Box, *, modules: bool = False) -> SelfCheck:
    """The self-check's JSON as data. An image that prints none, or nonsense, has failed."""
    done = box.run([SELF_CHECK, *(["--modules"] if modules else [])], timeout=TIME_LIMIT)
    lines = done.stdout.decode("utf-8", "replace").strip().splitlines()
    try:
        data = json.loads(lines[-1])
        check = SelfCheck(
            Verification(data["status"], data["against"], data["max_rel_diff"], data["reason"]),
            str(data.get("python") or ""),
            tuple(str(path) for path in data.get("modules") or ()),
        )
        if check.verification.status not in ("passed", "failed"):
            raise ValueError(check.verification.status)
    except (IndexError, ValueError, KeyError, TypeError):
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        if done.returncode == 124:
            last = f"it did not end within {TIME_LIMIT:.0f} s"
        if done.returncode == KILLED:
            last = f"it was killed, most likely for taking more than {_memory()}"
        return SelfCheck(Verification("failed", None, None, f"the self-check ended with {done.returncode}: {last}"))
    reason = check.verification.reason
    if check.verification.status == "failed" and reason and _NO_MEMORY.search(reason):
        told = f"{reason.rstrip('.')}; a process of it may have {_memory()}"
        check = replace(check, verification=replace(check.verification, reason=told))
    if done.returncode != 0 and check.verification.status == "passed":
        failed = replace(check.verification, status="failed", reason=f"the self-check ended with {done.returncode}")
        return replace(check, verification=failed)
    return check


def _memory() -> str:
    return f"the sandbox's {memory_limit() / 1e6:.0f} MB of memory"


def require_passed(verification: Verification, image: BuiltImage, *, trimmed: bool = False) -> None:
    """Raises VerificationError that says where the unnamed image stays when its check failed.

    A `trimmed` image that did not answer at all may lack a file that trimming left out.
    """
    if verification.status == "failed":
        rest = ""
        if trimmed and verification.against != "expected":
            rest = " If it lacks a file of a dependency, --no-trim builds it with all of them."
        place, remove = ("the store", "mpack rm") if image.location == "store" else ("docker", "docker image rm")
        raise VerificationError(
            "verification-failed",
            f"The image did not pass its self-check: {verification.reason}.",
            f"Nothing was tagged or written. {place.capitalize()} keeps it as {image.id} for a look: `mpack verify` "
            f"asks it again, `{remove}` removes it.{rest}",
        )


def bytecode_of(check: SelfCheck, base: BaseImage, *, trim: bool) -> Bytecode:
    """The modules worth compiling: those of the environment, the runtime, the base's packages and standard library.

    The model's own files are left out, so that the list depends on the environment alone.
    """
    prefix = base.python.rsplit("/", 2)[0]
    places = (
        f"{VENV}/",
        f"{RUNTIME}/",
        *(f"{place}/" for place in base.site_dirs),
        f"{prefix}/lib/python{base.minor}/",
    )
    sources = sorted(path for path in set(check.modules) if _compilable(path, places))
    return Bytecode(check.python, tuple(sources), short_docstrings=trim)


def _compilable(path: str, places: Sequence[str]) -> bool:
    return path.endswith(".py") and path.startswith(tuple(places)) and "\n" not in path and "/../" not in path
