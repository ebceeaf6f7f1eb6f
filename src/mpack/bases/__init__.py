"""Base images: finding, building, picking and reading them."""

from __future__ import annotations

from mpack.bases.bases import Bases

__all__ = ["Bases"]
