"""References to secrets. A secret is looked up when it is used, and is in no repr, log, plan or record."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import field as data_field
from pathlib import Path

from mpack.errors import InputError
from mpack.records import dataclass
from mpack.redaction import hide

_VARIABLE = r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}"
_KEYRING = r"([^/]+)/(.+)"


@dataclass(frozen=True)
class Secret:
    """`source` says where it comes from, for messages: "spec.password of docker-ci", "the variable CI_PASSWORD"."""

    source: str
    _look_up: Callable[[], str] = data_field(repr=False, compare=False, default=str)

    def reveal(self) -> str:
        """The secret; from now on what mpack prints has ***** in its place.

        Raises EnvironmentFault secret-unavailable where it is not at its source, tool-missing.
        """
        secret = self._look_up()
        hide(secret)
        return secret


def parse_secret(text: str, field: str, directory: Path | None = None) -> Secret:
    """What a manifest says in place of a secret: base64 of UTF-8 text, ${VARIABLE}, file:PATH, keyring:SERVICE/USER.

    `field` is for messages ("spec.password of docker-ci"); relative paths are relative to `directory`, the manifest's.
    Nothing is looked up before `reveal`; a variable is taken out of the environment that programs mpack starts get.
    Raises InputError connection-invalid, which does not say the text.
    """
    from mpack.connections import lookup

    if text.startswith("$"):
        found = re.fullmatch(_VARIABLE, text)
        if found is None:
            raise _unreadable(field, "begins with $, and is not ${NAME} with the name of one variable")
        name = found[1]
        lookup.take(name)
        return Secret(f"the variable {name} ({field})", lambda: lookup.from_variable(name, field))
    kind, colon, place = text.partition(":")
    if colon and kind == "file":
        if not place or "\0" in place:
            raise _unreadable(field, "names no file after file:")
        try:
            path = (directory or Path()) / Path(place).expanduser()
        except RuntimeError:
            raise _unreadable(field, "names a file in a home directory that is not known") from None
        return Secret(f"the file {path} ({field})", lambda: lookup.from_file(path, field))
    if colon and kind == "keyring":
        named = re.fullmatch(_KEYRING, place)
        if named is None:
            raise _unreadable(field, "does not name a service and a user after keyring:")
        service, user = named.groups()
        source = f"the keyring's entry {service}/{user} ({field})"
        return Secret(source, lambda: lookup.from_keyring(service, user, field))
    secret = _decode(text, field)
    return Secret(field, lambda: secret)


def _decode(text: str, field: str) -> str:
    import base64
    import binascii

    if not text:
        raise _unreadable(field, "is empty")
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, ValueError):
        # Neither the text nor the decoder's words about it: a password in clear often stands here by mistake.
        raise _unreadable(field, "is not base64 of UTF-8 text") from None


def _unreadable(field: str, why: str) -> InputError:
    return InputError(
        "connection-invalid",
        f"{field} {why}.",
        "Write base64 of the secret, ${VARIABLE}, file:PATH or keyring:SERVICE/USER.",
    )
