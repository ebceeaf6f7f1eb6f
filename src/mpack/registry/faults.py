"""What a registry's refusals mean, in words: its own reasons are shown, cleaned and cut."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from mpack.errors import EnvironmentFault
from mpack.registry.reference import Reference

if TYPE_CHECKING:
    import httpx

#: Characters of a registry's reason.
SHOWN = 200
_NO_SPACE = re.compile(r"no space left|\"Err\":\s*28\b|disk (is )?full|quota", re.IGNORECASE)


class Missing(EnvironmentFault):
    """A manifest or blob that the registry does not have."""


def refused(reference: Reference, why: str, hint: str = "Try again, or ask who runs it.") -> EnvironmentFault:
    """registry-failed for an answer that cannot be used."""
    return EnvironmentFault(
        "registry-failed", f"The registry {reference.registry} failed for {reference}: {why}.", hint
    )


def codes(text: str) -> list[str]:
    """The error codes in a body of the distribution API: ["NAME_UNKNOWN"]; [] in any other."""
    return [code for code, _ in _errors(text)]


def push_refused(
    reference: Reference, response: httpx.Response, what: str, identity: str, remedy: str
) -> EnvironmentFault:
    """The error for an answer that ends a push. `identity` says whose credentials the registry got, `remedy` what to do
    about them."""
    status, text = response.status_code, response.text
    said = "; ".join(f"{code}: {message}" if message else code for code, message in _errors(text))
    why = f"{what} ended with HTTP {status}" + (f" ({said[:SHOWN]})" if said else "")
    host = reference.registry
    if status in (401, 403):
        return refused(
            reference,
            f"it refuses a push {identity} (HTTP {status})",
            f"{remedy}: it takes a user who may push there.",
        )
    if status == 404 or "NAME_INVALID" in codes(text) or "NAME_UNKNOWN" in codes(text):
        return refused(
            reference, why, f"Check the name, and whether {reference.repository} must be made at {host} first."
        )
    if status == 413:
        return refused(
            reference, why, "A proxy before the registry limits the size of requests: ask who runs it to raise it."
        )
    if status >= 500 and _NO_SPACE.search(text):
        return refused(reference, f"{why}; its disk is full", "Ask who runs it to make room, then push again.")
    if status >= 500:
        return refused(reference, why, "Push again later; if it stays so, its log and the room on its disk tell more.")
    return refused(reference, why)


def _errors(text: str) -> list[tuple[str, str]]:
    try:
        found = json.loads(text)["errors"]
        return [(_clean(item["code"]), _clean(item.get("message") or "")) for item in found]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def _clean(text: object) -> str:
    return re.sub(r"[^ -~]", "", str(text))
