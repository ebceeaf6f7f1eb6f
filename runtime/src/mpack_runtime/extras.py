"""What an argument adds to an image. A model's own dependencies may bring a part of it, or another version."""

from __future__ import annotations

import importlib
import importlib.util


def has(module: str) -> bool:
    """True if the image has a module, and not just a package above it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def preload(*modules: str) -> None:
    """Imports modules, so that the self-check can tell their sources. What cannot be imported nobody asked for."""
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception:  # noqa: S112 - whatever a library raises that does not know its neighbours' versions
            continue
