"""Signatures by cosign, with a key: run as a program, for the keys may be files, a KMS or a token that only it knows.

A password comes from COSIGN_PASSWORD or from what cosign asks on the terminal; none is ever in an argument. No entry is
made in a public transparency log, and none is asked for: the key decides.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence

from mpack.errors import EnvironmentFault, VerificationError

#: Characters of what cosign says.
_SHOWN = 600


def require_cosign() -> str:
    """The program's path. Raises EnvironmentFault tool-missing."""
    found = shutil.which("cosign")
    if found is None:
        raise EnvironmentFault(
            "tool-missing",
            "A signature was asked for, and there is no cosign on PATH.",
            "Install it (Debian 13: apt-get install cosign), or leave the key away.",
        )
    return found


def sign(reference: str, key: str) -> None:
    """Signs an image that a registry has, by digest. Raises EnvironmentFault tool-missing or signing-failed."""
    done = _cosign(["sign", "--key", key, "--yes", "--tlog-upload=false", reference])
    if done.returncode != 0:
        raise EnvironmentFault(
            "signing-failed",
            f"The image is pushed, but cosign did not sign {reference}: {_last(done.stderr)}.",
            "A key's password is taken from COSIGN_PASSWORD; `mpack push --sign-key` signs without sending again.",
        )


def verify(reference: str, key: str) -> None:
    """Checks the signature of an image that a registry has, by digest.

    Raises VerificationError signature-invalid, EnvironmentFault tool-missing.
    """
    done = _cosign(["verify", "--key", key, "--insecure-ignore-tlog=true", reference])
    if done.returncode != 0:
        raise VerificationError(
            "signature-invalid",
            f"{reference} has no signature that {key} fits: {_last(done.stderr)}.",
            "Check the key, and that the image was pushed with --sign-key.",
        )


def _cosign(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([require_cosign(), *arguments], capture_output=True, text=True, errors="replace", check=False)


def _last(text: str) -> str:
    """The end of what a program said, in one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[-3:])[-_SHOWN:].rstrip(".") or "it said nothing"
