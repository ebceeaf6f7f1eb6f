"""Signatures by cosign, with a key: run as a program, for the keys may be files, a KMS or a token that only it knows.

A password comes from COSIGN_PASSWORD or from what cosign asks on the terminal; none is ever in an argument. No entry is
made in a public transparency log, and none is asked for: the key decides. How that is said depends on cosign's version,
and one that does not know how it was said ends with an error: nothing gets into the log by mistake.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mpack.errors import EnvironmentFault, VerificationError

#: Characters of what cosign says.
_SHOWN = 600
#: A signing configuration, as cosign 3 wants one, that names no service.
_NO_SERVICES = {
    "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
    "rekorTlogConfig": {},
    "tsaConfig": {},
}
_FLAG = re.compile(r"^ +(?:-\w, )?--([\w-]+)(.*)$", re.MULTILINE)


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
    with tempfile.TemporaryDirectory(prefix="mpack-cosign-") as scratch:
        done = _cosign(["sign", "--key", key, "--yes", *_without_log(Path(scratch)), reference])
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


def _without_log(scratch: Path) -> list[str]:
    """The options that keep a signature out of the public log: cosign 2 has a switch, later ones a configuration."""
    flags = dict(_FLAG.findall(_cosign(["sign", "--help"]).stdout))
    if "tlog-upload" in flags and "default true" not in flags.get("use-signing-config", ""):
        return ["--tlog-upload=false"]
    path = scratch / "signing-config.json"
    path.write_text(json.dumps(_NO_SERVICES))
    return ["--signing-config", str(path)]


def _cosign(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([require_cosign(), *arguments], capture_output=True, text=True, errors="replace", check=False)


def _last(text: str) -> str:
    """The end of what a program said, in one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[-3:])[-_SHOWN:].rstrip(".") or "it said nothing"
