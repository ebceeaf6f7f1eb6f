"""YAML out of an artifact: plain data, and no larger than it is written."""

from __future__ import annotations

from typing import Any

from mpack.artifact.plainyaml import Unplain, read_plain


def load_yaml(text: str) -> Any:
    """The document. Raises ValueError on what is not YAML, is nested too deeply, or grows by its aliases."""
    try:
        return read_plain(text)
    except Unplain:
        from mpack.artifact.fullyaml import load_full

        return load_full(text)
