"""What is wrong in manifests: every fault with its file, document, line and field, all of them in one error."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mpack.errors import InputError
from mpack.records import dataclass

#: Faults that a message shows; `ManifestError.faults` has all.
SHOWN = 50


@dataclass(frozen=True)
class Fault:
    """One fault. `field` is a path ("spec.targets[0].name"), "" for the document or the file as a whole; `document`
    counts from 1 (None: not known), `line` too (None: not known)."""

    file: Path
    message: str
    field: str = ""
    document: int | None = None
    line: int | None = None

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line is not None else str(self.file)
        if self.document is not None and self.document > 1:
            place += f" (document {self.document})"
        text = f"{place}: {self.field}: {self.message}" if self.field else f"{place}: {self.message}"
        # Names of files and keys may hold what a terminal would obey, or a line's end.
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

    def to_json(self) -> dict[str, Any]:
        """{file, document, line, field, message}."""
        return {
            "file": str(self.file),
            "document": self.document,
            "line": self.line,
            "field": self.field,
            "message": self.message,
        }


class ManifestError(InputError):
    """manifest-invalid: the manifests cannot be used; a line of the message for each fault."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        count = len(self.faults)
        lines = [f"The manifests have {count} faults."] if count > 1 else []
        lines += [str(fault) for fault in self.faults[:SHOWN]]
        if count > SHOWN:
            lines.append(f"… and {count - SHOWN} more.")
        hint = "docs/reference/manifests.md has every field and every message; docs/schemas has schemas for editors."
        super().__init__("manifest-invalid", "\n".join(lines), hint)

    def to_json(self) -> dict[str, Any]:
        """As every error, and `faults`."""
        return {**super().to_json(), "faults": [fault.to_json() for fault in self.faults]}


def shown(value: object) -> str:
    """A value of a document as messages quote it: JSON, and not more than a line of it."""
    import json

    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}…"


def nearest(name: str, known: Iterable[str], others: bool = True) -> str:
    """ "; did you mean NAME?" where one is near, else what there is, if `others`."""
    import difflib

    names = sorted(known)
    near = difflib.get_close_matches(name, names, 1)
    if near:
        return f"; did you mean {near[0]}?"
    if not names or not others:
        return ""
    return f"; there {'is' if len(names) == 1 else 'are'} {', '.join(names[:20])}{', …' if len(names) > 20 else ''}"
