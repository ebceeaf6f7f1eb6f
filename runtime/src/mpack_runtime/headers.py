"""What stands in headers, of HTTP and of gRPC."""

from __future__ import annotations

import os
import re

#: A name or an id that may be passed on as it came.
PLAIN = re.compile(r"[\x21-\x7e]{1,128}")


def request_id(given: str) -> str:
    """The client's own id of a request, or a new one where it gives none that may be passed on."""
    return given if PLAIN.fullmatch(given) else os.urandom(16).hex()


def printable(text: str) -> str:
    """Text as a header's value: printable ASCII, other characters escaped, at most 1,000 characters."""
    escaped = text.encode("ascii", "backslashreplace").decode("ascii")
    return "".join(character if " " <= character <= "~" else " " for character in escaped)[:1000]
