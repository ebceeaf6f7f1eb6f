"""Signatures by cosign, with a key: run as a program, for the keys may be files, a KMS or a token that only it knows.

A password comes from COSIGN_PASSWORD or from what cosign asks on the terminal, where all that it says is shown at once;
none is ever in an argument. No entry is
made in a public transparency log, and none is asked for: the key decides. How that is said depends on cosign's version,
and one that does not know how it was said ends with an error: nothing gets into the log by mistake.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mpack.errors import EnvironmentFault, UsageError, VerificationError

#: Characters of what cosign says that an error repeats; bytes of it that are kept.
_SHOWN = 600
_KEPT = 1 << 16
#: cosign's exit codes for an image without a signature, without one that matches, without a certificate on it; and what
#: versions say that have none.
_UNSIGNED = (10, 12, 13)
_NO_SIGNATURE = re.compile(r"no (matching )?signatures|invalid signature", re.IGNORECASE)
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
    """Signs an image that a registry has, by digest.

    Raises EnvironmentFault tool-missing or signing-failed, UsageError for a key file that is not there.
    """
    require_key(key)
    with tempfile.TemporaryDirectory(prefix="mpack-cosign-") as scratch:
        code, said = _shown(["sign", "--key", key, "--yes", *_without_log(Path(scratch)), reference])
    if code != 0:
        raise EnvironmentFault(
            "signing-failed",
            f"The image is pushed, but cosign did not sign {reference}: {_last(said)}.",
            "A key's password is taken from COSIGN_PASSWORD; `mpack push --sign-key` signs without sending again.",
        )


def verify(reference: str, key: str) -> None:
    """Checks the signature of an image that a registry has, by digest.

    Raises VerificationError signature-invalid where cosign says that no signature fits, EnvironmentFault tool-missing,
    or signing-failed where it could not tell, UsageError for a key file that is not there.
    """
    require_key(key)
    code, said = _shown(["verify", "--key", key, "--insecure-ignore-tlog=true", reference])
    if code in _UNSIGNED or (code != 0 and _NO_SIGNATURE.search(said)):
        raise VerificationError(
            "signature-invalid",
            f"{reference} has no signature that {key} fits: {_last(said)}.",
            "Check the key, and that the image was pushed with --sign-key.",
        )
    if code != 0:
        raise EnvironmentFault(
            "signing-failed",
            f"cosign could not check the signature of {reference} with {key}: {_last(said)}.",
            "Check that the key is a public key of cosign's and that the registry answers.",
        )


def require_key(key: str) -> None:
    """Raises UsageError for a key file that is not there; a KMS's key or a token's is for cosign to find."""
    if ":" not in key and not Path(key).is_file():
        raise UsageError("usage", f"The key {key} is no file.", "Name a key file, or a key as cosign knows it.")


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


def _shown(arguments: Sequence[str]) -> tuple[int, str]:
    """Runs cosign on this terminal: its exit code, and what it said on stderr, which was shown as it came."""
    said = b""
    command = [require_cosign(), *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        while block := os.read(process.stderr.fileno(), 1 << 16):
            said = (said + block)[-_KEPT:]
            sys.stderr.write(block.decode("utf-8", "replace"))
            sys.stderr.flush()
    return process.returncode, said.decode("utf-8", "replace")


def _last(text: str) -> str:
    """The end of what a program said, in one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[-3:])[-_SHOWN:].rstrip(".") or "it said nothing"
