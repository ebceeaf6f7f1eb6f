"""YAML out of an artifact: plain data. What was read once is kept as JSON, by its text.

PyYAML takes 20 ms to import and to read a model's files, a tenth of a warm build.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from mpack.errors import EnvironmentFault
from mpack.paths import cache_dir

#: Raised when `parse_yaml` reads a text otherwise than before.
_READER = b"1\0"
#: Characters: a longer text is not kept.
_KEPT = 1 << 20


def load_yaml(text: str) -> Any:
    """The document. Raises ValueError on what is not YAML, is nested too deeply, or grows by its aliases."""
    place = _place(text)
    if place is None:
        return _parsed(text)
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        document = json.loads(place.read_bytes())["document"]
        os.utime(place)
        return document
    document = _parsed(text)
    with suppress(OSError, ValueError, TypeError, RecursionError):
        _keep(place, document)
    return document


def yaml_dir() -> Path:
    """Where documents are kept."""
    return cache_dir() / "yaml"


def _place(text: str) -> Path | None:
    if len(text) > _KEPT:
        return None
    name = hashlib.sha256(_READER + text.encode("utf-8", "surrogatepass")).hexdigest()
    try:
        return yaml_dir() / f"{name}.json"
    except EnvironmentFault:  # a user without a home
        return None


def _parsed(text: str) -> Any:
    from mpack.artifact.fullyaml import parse_yaml

    return parse_yaml(text)


def _keep(place: Path, document: Any) -> None:
    """Writes a document that JSON says whole: no date, no key that is no text."""
    data = json.dumps({"document": document}, allow_nan=False)
    if json.loads(data)["document"] != document:
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=place.parent, suffix=".new", delete=False) as stream:
        try:
            stream.write(data)
            stream.flush()
            Path(stream.name).replace(place)
        except BaseException:
            Path(stream.name).unlink(missing_ok=True)
            raise
