"""Why a lock file does not fit what is asked for, in words for the user: which entry is nearest, and what differs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mpack.errors import InputError

#: Entries and characters of text from a lock, which anybody may have written, that a message repeats.
_MOST_ENTRIES, _LONGEST = 5, 160
T = TypeVar("T")


def no_lock(path: Path | None) -> InputError:
    """InputError lock-mismatch for a lock file that is not there, or has no entry at all."""
    return InputError("lock-mismatch", f"There is no lock in {path}.", "Make one with `mpack lock`.")


def no_entry(path: Path | None, key: str, known: Sequence[str]) -> InputError:
    """InputError lock-mismatch for a file without an entry `key`: the nearest of those it has, and what differs."""
    message = f"The lock file {path} has no entry for {plain(key)}."
    if known:
        nearest = min(sorted(known), key=lambda item: len(differences(item, key)))
        message += f" The nearest is for {'; '.join(differences(nearest, key))}."
    if len(known) > 1:
        shown = [f"({plain(item)})" for item in sorted(known)[:_MOST_ENTRIES]]
        more = f" and {len(known) - _MOST_ENTRIES} more" if len(known) > _MOST_ENTRIES else ""
        message += f" It has entries for {', '.join(shown)}{more}."
    return InputError(
        "lock-mismatch",
        message,
        f"Add one: `mpack lock` with the same options and `-o {path}`, or build with --update-lock.",
    )


def differences(there: str, asked: str) -> list[str]:
    """What an entry's key has otherwise than the one asked for: "Python 3.11, not 3.13", one text a word."""
    one, two = _words(there), _words(asked)
    names = dict.fromkeys([*one, *two])
    return [_differs(name, one.get(name), two.get(name)) for name in names if one.get(name) != two.get(name)]


def unreadable(path: Path, data: Any, schema: int, version: str) -> InputError:
    """InputError lock-invalid for JSON that is no lock of this mpack's form; a newer mpack's is told as that."""
    found = data.get("schema") if isinstance(data, dict) else None
    if isinstance(found, int) and found > schema:
        by = plain(str(data.get("mpack", "a newer version")))
        return InputError(
            "lock-invalid",
            f"The lock file {path} was made by a newer mpack: by {by}, schema {found}; this is {version}, which reads "
            f"schema {schema}.",
            "Install that mpack, or make the lock anew with --update-lock.",
        )
    reason = "it is no JSON object" if not isinstance(data, dict) else f"its schema is {found!r}, not {schema}"
    return InputError(
        "lock-invalid", f"The lock file {path} cannot be read: {reason}.", "Make it anew with --update-lock."
    )


def read_field(data: Any, name: str, read: Callable[[Any], T]) -> T:
    """`read` of one field of an entry. Raises KeyError where it is missing, ValueError naming it where it is wrong."""
    value = data[name]
    try:
        return read(value)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        lacks = f"{error} is missing" if isinstance(error, KeyError) else "a value is of another type"
        raise ValueError(f"the field {name!r}: {error if isinstance(error, ValueError) else lacks}") from error


def entry_fault(item: Any, number: int, error: Exception) -> str:
    """What is wrong with one entry: "entry 2 (docker-rest …): the field 'base' is missing"."""
    key = item.get("key") if isinstance(item, dict) else None
    name = f"entry {number} ({plain(key)})" if isinstance(key, str) else f"entry {number}"
    if isinstance(error, KeyError):
        return f"{name}: the field {error} is missing"
    return f"{name}: {plain(str(error)) if isinstance(error, ValueError) else 'a field has a value of another type'}"


def plain(text: str) -> str:
    """Foreign text as it can be shown: one line of bounded length, nothing that a terminal obeys."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text)
    return shown[:_LONGEST] + ("…" if len(shown) > _LONGEST else "")


_LABELS = {
    "packager": "the packager",
    "platform": "the platform",
    "python": "Python",
    "base": "the base",
    "kind": "a base of kind",
    "preferred": "the preferred base",
    "needs": "a base with",
    "packages": "the system packages",
    "optimize": "a model converted to",
}
#: Flags: what an entry is without one, and with it.
_FLAGS = {
    "no-trim": ("a trimmed environment", "an untrimmed one (--no-trim)"),
    "shell": ("a base without a shell", "one with a shell"),
}


def _words(key: str) -> dict[str, str]:
    """The words of a key by what they tell: packager, platform, then NAME=VALUE words and flags."""
    parts = key.split(" ")
    found = dict(zip(("packager", "platform"), parts, strict=False))
    for part in parts[2:]:
        name, equals, value = part.partition("=")
        found[name] = value if equals else "yes"
    return found


def _differs(name: str, there: str | None, asked: str | None) -> str:
    if name in _FLAGS:
        return ", not ".join(reversed(_FLAGS[name]) if there else _FLAGS[name])
    label = _LABELS.get(name, plain(name))
    return f"{label} {plain(there or 'none')}, not {plain(asked or 'none')}"
