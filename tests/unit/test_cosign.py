"""How cosign is run, and what its answers mean: by fake programs, for Debian 12 has no cosign."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mpack.errors import EnvironmentFault, UsageError, VerificationError
from mpack.supply import cosign

HEX = "ab" * 32
COSIGN_2 = "Examples:\n  cosign sign x\n\nFlags:\n      --key string\n      --tlog-upload   whether to (default true)\n"
COSIGN_2_6 = f"{COSIGN_2}      --signing-config string   path\n      --use-signing-config   whether to\n"
COSIGN_3 = (
    "Examples:\n  cosign sign --key k --tlog-upload=false x\n\nFlags:\n      --key string\n"
    "      --signing-config string   path\n      --use-signing-config   whether to use one (default true)\n"
)
COSIGN_LATER = "Flags:\n      --signing-config string   path\n"


@pytest.mark.parametrize(
    ("usage", "option"),
    [
        (COSIGN_2, "--tlog-upload=false"),
        (COSIGN_2_6, "--tlog-upload=false"),
        (COSIGN_3, "--signing-config"),
        (COSIGN_LATER, "--signing-config"),
    ],
    ids=["2", "2.6", "3", "later"],
)
def test_cosign_is_run_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, usage: str, option: str
) -> None:
    """cosign gets key and reference and is kept from the public log; the password stays in the environment; what it
    says is told."""
    program = tmp_path / "cosign"
    program.write_text(
        '#!/bin/sh\n[ "$2" = --help ] && { cat "$0.usage"; exit 0; }\necho "$@" >>"$0.log"\n'
        'echo "$COSIGN_PASSWORD" >>"$0.password"\n[ "$5" = --signing-config ] && cat "$6" >"$0.config"\n'
        'case "$*" in *wrong*) echo "no matching signatures" >&2; exit 1 ;; *unsigned*) exit 10 ;;'
        ' *offline*) echo "no such host" >&2; exit 1 ;; esac\nexit 0\n'
    )
    program.chmod(0o755)
    Path(f"{program}.usage").write_text(usage)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("COSIGN_PASSWORD", "hunter2")
    monkeypatch.chdir(tmp_path)
    for key in ("our.key", "our.pub"):
        Path(key).write_text("a key")
    pinned = f"localhost:5000/wine@sha256:{HEX}"
    cosign.sign(pinned, "our.key")
    cosign.verify(pinned, "our.pub")
    signed, verified = Path(f"{program}.log").read_text().splitlines()
    assert signed.startswith(f"sign --key our.key --yes {option}") and signed.endswith(f" {pinned}")
    assert verified == f"verify --key our.pub --insecure-ignore-tlog=true {pinned}"
    if option == "--signing-config":
        config = json.loads(Path(f"{program}.config").read_text())
        assert not [key for key in config if key.endswith("Urls")] and "signingconfig" in config["mediaType"]
        assert not Path(signed.split()[5]).exists()
    assert "hunter2" not in signed + verified and Path(f"{program}.password").read_text().split() == ["hunter2"] * 2
    for image, key, code, error in (
        ("wrong", "our.pub", "signature-invalid", VerificationError),
        ("unsigned", "awskms:///k", "signature-invalid", VerificationError),
        ("offline", "our.pub", "signing-failed", EnvironmentFault),
        ("wrong", "no.pub", "usage", UsageError),
    ):
        with pytest.raises(error) as caught:
            cosign.verify(f"localhost:5000/wine@sha256:{image}", key)
        assert caught.value.code == code


def test_cosigns_question_is_seen(tmp_path: Path) -> None:
    """What cosign asks is on the terminal while it waits for the answer."""
    program = tmp_path / "cosign"
    program.write_text(
        '#!/bin/sh\n[ "$2" = --help ] && { echo "      --tlog-upload  x"; exit 0; }\n'
        'printf "Enter password: " >&2\nread -r word\n[ "$word" = secret ]\n'
    )
    program.chmod(0o755)
    (tmp_path / "our.key").write_text("a key")
    code = f"from mpack.supply.cosign import sign; sign('localhost:5000/wine', {str(tmp_path / 'our.key')!r})"
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes) as asking:
        assert asking.stderr is not None and asking.stdin is not None
        assert asking.stderr.read(16) == b"Enter password: "
        asking.stdin.write(b"secret\n")
        asking.stdin.close()
        assert asking.wait() == 0, asking.stderr.read()
