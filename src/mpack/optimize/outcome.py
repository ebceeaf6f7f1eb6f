"""What came of a conversion: a graph, or the reason why there is none."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from mpack.records import dataclass

#: Bytes of the line that tells of a conversion.
_MAX_LINE = 16 << 20


@dataclass(frozen=True)
class Conversion:
    """A graph that agrees with its model: the loader's `options` for it, how many `rows` both answered, the largest
    relative difference, and in words what is `lost`."""

    graph: bytes
    options: Mapping[str, Any]
    rows: int
    max_rel_diff: float
    lost: str | None

    @property
    def digest(self) -> str:
        """ "sha256:…" of the graph."""
        return "sha256:" + hashlib.sha256(self.graph).hexdigest()


@dataclass(frozen=True)
class Outcome:
    """`status` is "converted" or "kept"; the `reason` is a clause that tells why a model was kept as it is."""

    status: str
    reason: str | None = None
    rows: int | None = None
    max_rel_diff: float | None = None
    lost: str | None = None
    digest: str | None = None

    @classmethod
    def of(cls, found: Conversion | str) -> Outcome:
        """Of a conversion, or of the reason why there is none."""
        if isinstance(found, str):
            return cls("kept", found)
        return cls("converted", None, found.rows, found.max_rel_diff, found.lost, found.digest)

    def to_json(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "reason": self.reason,
            "rows": self.rows,
            "max_rel_diff": self.max_rel_diff,
            "lost": self.lost,
            "digest": self.digest,
        }


def parse(output: bytes) -> Conversion | str:
    """What `mpack_runtime.convert` printed, or the reason that it gave.

    Model code ran beside it, so this is foreign input. Raises ValueError for anything else than it writes.
    """
    line, _, graph = output.partition(b"\n")
    if len(line) > _MAX_LINE:
        raise ValueError("its first line is too long")
    try:
        told = json.loads(line)
        if told["status"] == "kept":
            return _clause(told["reason"])
        if told["status"] != "converted" or told["size"] != len(graph) or not graph:
            raise ValueError("its graph is not whole")
        rows, difference, lost = told["rows"], float(told["max_rel_diff"]), told["lost"]
        if type(rows) is not int or rows < 1 or not 0 <= difference < math.inf:
            raise ValueError("its figures are no figures")
        options = told["options"]
        if set(options) != {"converted"} or not isinstance(options["converted"], dict):
            raise ValueError("its options are others")
        return Conversion(graph, options, rows, difference, None if lost is None else _clause(lost))
    except (KeyError, TypeError, AttributeError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(repr(error)) from error


def _clause(text: Any) -> str:
    """One line without control characters."""
    if not isinstance(text, str):
        raise ValueError("a reason is no text")
    words = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split()).rstrip(".")
    return words if 0 < len(words) <= 1000 else f"{words[:997]}..." if words else "it gave no reason"
