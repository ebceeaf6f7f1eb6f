"""Registry credentials as Docker keeps them: config.json and its credential helpers. Nothing is ever stored here."""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mpack.errors import EnvironmentFault
from mpack.redaction import hide
from mpack.registry.reference import Reference

#: The user name that a credential helper gives for an identity (refresh) token.
TOKEN_USER = "<token>"  # noqa: S105 (a marker, not a secret)
HELPER_TIMEOUT = 30.0


@dataclass(frozen=True)
class Credentials:
    """A user and password, or an identity token (exchanged for bearer tokens). Never shown by repr."""

    user: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


class Login(Protocol):
    """Where the credentials for registries come from. They are looked up each time a registry asks."""

    def credentials(self, reference: Reference) -> Credentials | None:
        """Those for the reference's registry; None: it is asked without. Raises EnvironmentFault."""

    def remedy(self, reference: Reference) -> str:
        """What to do where that registry refuses them, as the beginning of a sentence: "Run `docker login HOST`"."""


@dataclass(frozen=True)
class DockerLogin:
    """What `docker login` left, in `directory` or where Docker keeps it."""

    directory: Path | None = None

    def credentials(self, reference: Reference) -> Credentials | None:
        found = find_credentials(reference.credential_key, self.directory)
        if found is not None:
            hide(found.password)
            hide(found.identity_token)
        return found

    def remedy(self, reference: Reference) -> str:
        return f"Run `docker login {reference.registry}`"


def find_credentials(key: str, config_dir: Path | None = None) -> Credentials | None:
    """The credentials for one registry key (host[:port], or Docker Hub's URL); None where there are none.

    Order as Docker's: `credHelpers` of that registry, `credsStore`, `auths`. The secret travels over pipes only.
    Raises EnvironmentFault registry-failed when the configuration or a helper is broken.
    """
    try:
        directory = config_dir or Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    except RuntimeError:
        return None  # a user id without an entry in passwd has no home, so no `docker login` either
    config = _read_config(directory / "config.json")
    helper = config.get("credHelpers", {}).get(key) or config.get("credsStore")
    if helper:
        found = _ask_helper(str(helper), key)
        if found:
            return found
    auths = config.get("auths", {})
    for name in (key, f"https://{key}", f"http://{key}", f"https://{key}/v1/", f"https://{key}/v2/"):
        if auths.get(name):
            return _from_entry(auths[name], key)
    return None


def _read_config(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise _broken(f"Docker's {path.name} cannot be read: {error.strerror}.") from error
    try:
        config = json.loads(text)
    except ValueError as error:
        # The error's own text may quote the file, so only the position is told.
        raise _broken(f"{path} is not JSON.") from error
    if not isinstance(config, dict):
        raise _broken(f"{path} is not a JSON object.")
    for section in ("auths", "credHelpers"):
        if not isinstance(config.get(section) or {}, dict):
            raise _broken(f"{section!r} in {path} is not a JSON object.")
    return {key: value for key, value in config.items() if value}


def _ask_helper(helper: str, key: str) -> Credentials | None:
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(  # the key goes by stdin, the secret comes by stdout
            [program, "get"], input=key, capture_output=True, text=True, timeout=HELPER_TIMEOUT, check=False
        )
    except FileNotFoundError as error:
        raise _broken(f"The credential helper {program} is not installed.") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _broken(f"The credential helper {program} did not answer.") from error
    if done.returncode != 0:
        if "credentials not found" in (done.stdout + done.stderr).lower():
            return None
        raise _broken(f"The credential helper {program} failed for {key} (exit {done.returncode}).")
    try:
        answer = json.loads(done.stdout)
        user, secret = str(answer.get("Username", "")), str(answer.get("Secret", ""))
    except (ValueError, AttributeError) as error:
        raise _broken(f"The credential helper {program} did not answer with JSON.") from error
    if not secret:
        return None
    return Credentials(identity_token=secret) if user == TOKEN_USER else Credentials(user, secret)


def _from_entry(entry: Any, key: str) -> Credentials | None:
    if not isinstance(entry, dict):
        raise _broken(f"Docker's config.json has no object for {key}.")
    if entry.get("identitytoken"):
        return Credentials(identity_token=str(entry["identitytoken"]))
    if entry.get("auth"):
        try:
            user, _, password = base64.b64decode(entry["auth"], validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError, TypeError, ValueError) as error:
            raise _broken(
                f"The credentials of {key} in Docker's config.json are not base64 of user:password."
            ) from error
        return Credentials(user, password.rstrip("\0"))
    if entry.get("username") and entry.get("password"):
        return Credentials(str(entry["username"]), str(entry["password"]))
    return None


def _broken(message: str) -> EnvironmentFault:
    return EnvironmentFault("registry-failed", message, "Run `docker login` again, or correct Docker's config.json.")
