"""Looking up secrets: the environment, files, the host's keyring."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from mpack.errors import EnvironmentFault

#: Variables that other programs know by these names stay where such programs, which mpack starts, look for them.
_OTHERS = ("AWS_", "AZURE_", "GOOGLE_", "CLOUDSDK_", "COSIGN_", "PIP_", "UV_", "SSH_", "LC_", "XDG_")
_PLAIN = ("HOME", "PATH", "USER", "LANG", "TMPDIR", "SHELL", "PWD", "DOCKER_HOST", "DOCKER_CONFIG", "DOCKER_CONTEXT")
#: What was taken out of the environment, by its name.
_taken: dict[str, str] = {}
#: Bytes: a larger file is no secret.
LIMIT = 1 << 20


def take(name: str) -> None:
    """Keeps the variable for mpack alone: programs that it starts from now on do not get it."""
    if name in os.environ and not name.startswith(_OTHERS) and name not in _PLAIN:
        _taken[name] = os.environ.pop(name)


def from_variable(name: str, field: str) -> str:
    """The variable's value. Raises EnvironmentFault secret-unavailable where it is not set or is empty."""
    value = os.environ.get(name, _taken.get(name))
    if not value:
        state = "is empty" if value == "" else "is not set"
        raise _missing(field, f"the variable {name}, which {state}", f"Set {name} for mpack; in CI as a masked secret.")
    return value


def from_file(path: Path, field: str) -> str:
    """The file's text without one newline at its end. Everybody's right to read a file of this user is warned of.

    Raises EnvironmentFault secret-unavailable.
    """
    where = f"the file {path}"
    try:
        with path.open("rb") as stream:
            seen = os.fstat(stream.fileno())
            data = stream.read(LIMIT + 1)
    except OSError as error:
        raise _missing(field, f"{where}: {error.strerror or 'it cannot be read'}", "Check the path.") from None
    if len(data) > LIMIT:
        raise _missing(field, f"{where}, which has more than {LIMIT >> 20} MB", "Name the file of the secret alone.")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise _missing(field, f"{where}, which is not UTF-8 text", "Name a text file.") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise _missing(field, f"{where}, which is empty", "Write the secret into it.")
    if stat.S_ISREG(seen.st_mode) and seen.st_mode & stat.S_IROTH and seen.st_uid == os.geteuid():
        sys.stderr.write(f"warning: every user may read {path}, which holds {field}: chmod 600 it\n")
    return text


def from_keyring(service: str, user: str, field: str) -> str:
    """The password that the host's keyring has. Raises EnvironmentFault tool-missing or secret-unavailable."""
    try:
        import keyring
        import keyring.errors
    except ImportError as error:
        raise EnvironmentFault(
            "tool-missing",
            f"{field} is in a keyring, and the Python package keyring is not installed.",
            "Install mpack[keyring], or write ${VARIABLE} or file:PATH.",
        ) from error
    where = f"the keyring's entry {service}/{user}"
    try:
        found = keyring.get_password(service, user)
    except keyring.errors.KeyringError as error:
        hint = "`keyring diagnose` tells which keyring answers here; a machine without a desktop may have none."
        raise _missing(field, f"{where}: the keyring answers with {type(error).__name__}", hint) from None
    if not found:
        hint = f"Put it there with `keyring set {service} {user}`."
        raise _missing(field, f"{where}, and there is none", hint)
    return str(found)


def _missing(field: str, where: str, hint: str) -> EnvironmentFault:
    return EnvironmentFault("secret-unavailable", f"{field} is looked up in {where}.", hint)
