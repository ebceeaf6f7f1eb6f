"""The errors that all stores share, so that the same fault reads the same wherever the artifact is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from mpack.errors import EnvironmentFault, InputError, MpackError
from mpack.stores.model import Bounds, Broken

T = TypeVar("T")
#: Attempts that bring nothing before a fetch is given up.
ATTEMPTS = 6
#: Seconds before the second attempt; doubled each time up to `SLOWEST`.
FIRST = 0.2
SLOWEST = 5.0


def patient(what: Callable[[], T], uri: str) -> T:
    """What the call answers, asked again while it is `Broken`. Raises EnvironmentFault download-failed in the end."""
    for attempt in range(ATTEMPTS):
        try:
            return what()
        except Broken as error:
            if attempt + 1 == ATTEMPTS:
                raise failed(uri, str(error)) from None
            pause(attempt)
    raise AssertionError("unreachable")


def pause(attempt: int) -> None:
    """Waits before the attempt after number `attempt`, counted from 0."""
    time.sleep(min(FIRST * 2**attempt, SLOWEST))


def failed(uri: str, reason: str, hint: str = "") -> EnvironmentFault:
    """It cannot be fetched."""
    usual = "Check the address, the proxy settings and the CA bundle (SSL_CERT_FILE)."
    return EnvironmentFault("download-failed", f"{uri} cannot be fetched: {reason.rstrip('.')}.", hint or usual)


def missing(uri: str, reason: str, hint: str = "Check the address.") -> InputError:
    """Nothing is there."""
    return InputError("artifact-missing", f"{uri} is not there: {reason.rstrip('.')}.", hint)


def denied(uri: str, reason: str, hint: str) -> EnvironmentFault:
    """No credentials, or wrong ones."""
    return EnvironmentFault("artifact-denied", f"{uri} cannot be read: {reason.rstrip('.')}.", hint)


def changed(uri: str) -> InputError:
    """Another version is there than was listed."""
    return InputError("artifact-changed", f"{uri} changed while it was being fetched.", "Wait until it is written.")


def too_large(uri: str, bounds: Bounds, *, entries: bool = False) -> InputError:
    """More than the user allows."""
    what, option = (f"has more than {bounds.entries} files", "--max-entries") if entries else (
        f"is larger than {bounds.total} bytes", "--max-size"
    )  # fmt: skip
    return InputError("artifact-too-large", f"{uri} {what}.", f"Raise the limit with {option} if that is meant.")


def no_tool(scheme: str, extra: str, error: ImportError) -> MpackError:
    """The store's library is not installed."""
    return EnvironmentFault(
        "tool-missing",
        f"Artifacts of {scheme}:// need {error.name or 'a library'}, which is not installed.",
        f"pip install 'mpack[{extra}]'",
    )
