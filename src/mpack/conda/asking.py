"""Asking py-rattler: one job for `worker.py`, in a process that goes when this one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mpack.conda.channels import Channels
from mpack.contents import sha256_file
from mpack.errors import EnvironmentFault, InputError, InternalError, MpackError
from mpack.paths import cache_dir

#: Seconds without a byte of a package after which its channel is given up; for an answer to a solver ten times that.
PATIENCE = 60
WORKER = Path(__file__).with_name("worker.py")


class RattlerError(Exception):
    """Why a job was not done: `kind` as `worker.py` tells it, the text without secrets."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def require_rattler() -> None:
    """Raises EnvironmentFault tool-missing."""
    if find_spec("rattler") is None:
        raise EnvironmentFault(
            "tool-missing",
            "The model's conda packages are on no Python index, and py-rattler, which installs such, is not installed.",
            "Install it: pip install 'mpack[conda]'. Or name the packages as an index has them, in the pip section.",
        )


def ask(job: dict[str, Any], channels: Channels) -> dict[str, Any]:
    """What came of a job. Raises RattlerError, EnvironmentFault tool-missing or InternalError."""
    require_rattler()
    own = channels.environment()
    # Its caches belong to the user's mpack, whatever the user's own rattler has.
    own["RATTLER_CACHE_DIR"] = str(cache_dir() / "rattler")
    child = subprocess.Popen(
        [sys.executable, str(WORKER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **own},
        start_new_session=True,
    )
    try:
        output, errors = child.communicate(json.dumps(job).encode())
    except BaseException:
        child.kill()
        child.communicate()
        raise
    try:
        answer: dict[str, Any] = json.loads(output)
    except ValueError:
        told = channels.redact(errors.decode("utf-8", "replace"))[-1000:]
        raise InternalError(
            "internal", f"py-rattler ended with code {child.returncode} and no answer: {told}", "Please report it."
        ) from None
    if "error" in answer:
        raise RattlerError(answer["error"], channels.redact(str(answer["message"])))
    return answer


def fault(error: RattlerError, what: str) -> MpackError:
    """The error in mpack's words; `what` was tried, e.g. "Fetching 3 conda packages"."""
    text = " ".join(str(error).split()).rstrip(".")
    if error.kind == "disk":
        return EnvironmentFault(
            "disk-full", f"{what} failed: {text}.", "Free some space (`mpack cache prune`) and try again."
        )
    if error.kind == "unreachable":
        hint = "Check the channels, proxy and CA in ~/.condarc, and the network."
        return EnvironmentFault("index-unreachable", f"{what} failed: {text}.", hint)
    if error.kind == "unlike":
        hint = "Use the channel that the lock was made with, or lock again with --update-lock."
        return InputError("lock-mismatch", f"{what} failed: {text}.", hint)
    if error.kind == "refused":
        return InputError(
            "conda-package-refused", f"{what} failed: {text}.", "Tell its channel, or take another version of it."
        )
    if error.kind == "missing":
        return EnvironmentFault("tool-missing", f"{what} failed: {text}.", "Install it: pip install 'mpack[conda]'.")
    return InputError("requirements-invalid", f"{what} failed: {text}.", "Correct the environment file.")


@cache
def program() -> str:
    """The hash of what lays packages out."""
    return "".join(sha256_file(WORKER.with_name(name)) for name in ("inside.py", "prefix.py", "worker.py"))
