"""Credentials from Docker's config.json and its helpers."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from mpack.errors import EnvironmentFault
from mpack.registry.credentials import Credentials, find_credentials

HELPER = """#!/bin/sh
read key
[ "$1" = get ] || exit 9
case "$key" in
  token.example) echo '{"Username": "<token>", "Secret": "identity"}' ;;
  one.example) echo '{"Username": "helped", "Secret": "s3cret"}' ;;
  broken.example) echo 'boom s3cret' >&2; exit 1 ;;
  *) echo 'credentials not found in native keychain'; exit 1 ;;
esac
"""


def write(directory: Path, config: object) -> Path:
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def auth(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A credential helper on PATH, as Docker Desktop or a cloud's client installs one."""
    program = tmp_path / "bin" / "docker-credential-mine"
    program.parent.mkdir()
    program.write_text(HELPER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return "mine"


def test_auths(tmp_path: Path) -> None:
    """A password may hold colons; URLs as keys are understood; another registry's entry is not used."""
    write(tmp_path, {"auths": {"one.example:5000": auth("me", "a:b"), "https://two.example/v1/": auth("you", "pw")}})
    assert find_credentials("one.example:5000", tmp_path) == Credentials("me", "a:b")
    assert find_credentials("two.example", tmp_path) == Credentials("you", "pw")
    assert find_credentials("one.example", tmp_path) is None


def test_no_config(tmp_path: Path) -> None:
    """Without a config.json there are no credentials, and that is no error."""
    assert find_credentials("one.example", tmp_path / "absent") is None


def test_docker_config_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DOCKER_CONFIG names the directory, as for docker."""
    monkeypatch.setenv("DOCKER_CONFIG", str(write(tmp_path, {"auths": {"one.example": auth("me", "pw")}})))
    assert find_credentials("one.example") == Credentials("me", "pw")


def test_helpers(tmp_path: Path, helper: str) -> None:
    """The registry's own helper, the store for all others, identity tokens; what a store lacks falls to `auths`."""
    write(tmp_path, {"credHelpers": {"one.example": helper}})
    assert find_credentials("one.example", tmp_path) == Credentials("helped", "s3cret")
    write(tmp_path, {"credsStore": helper, "auths": {"plain.example": auth("me", "pw"), "one.example": {}}})
    assert find_credentials("token.example", tmp_path) == Credentials(identity_token="identity")
    assert find_credentials("plain.example", tmp_path) == Credentials("me", "pw")
    assert find_credentials("unknown.example", tmp_path) is None


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"auths": ["x"]}', "'auths'"),
        ('{"auths": {"one.example": {"auth": "&&&"}}}', "not base64"),
        ('{"credsStore": "no-such-helper"}', "not installed"),
    ],
)
def test_broken(tmp_path: Path, config: str, says: str) -> None:
    """A damaged configuration is an error that names what is damaged, not silence."""
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(EnvironmentFault, match=says) as caught:
        find_credentials("one.example", tmp_path)
    assert caught.value.code == "registry-failed"


def test_secrets_are_not_shown(tmp_path: Path, helper: str) -> None:
    """Neither repr nor the error of a failing helper shows a secret."""
    assert "pw" not in repr(Credentials("me", "pw", "identity")) and "identity" not in repr(
        Credentials("me", "pw", "identity")
    )
    write(tmp_path, {"credsStore": helper})
    with pytest.raises(EnvironmentFault) as caught:
        find_credentials("broken.example", tmp_path)
    assert "s3cret" not in str(caught.value)
