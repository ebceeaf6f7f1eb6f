"""The path prefix that a proxy names in X-Forwarded-Prefix."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_PREFIX = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)+/?")


def prefix(environ: Mapping[str, Any]) -> str:
    """The prefix without a final slash; "" unless it is a plain absolute path."""
    value = str(environ.get("HTTP_X_FORWARDED_PREFIX", "")).split(",")[0].strip()
    return value.rstrip("/") if _PREFIX.fullmatch(value) else ""


def path(environ: Mapping[str, Any]) -> str:
    """The request's path without the prefix, whether the proxy left it there or not, and with one slash before it:
    so all that look at it see the same."""
    whole = _rooted(str(environ.get("PATH_INFO", "")))
    if "HTTP_X_FORWARDED_PREFIX" not in environ:
        return whole
    before = prefix(environ)
    if before and (whole == before or whole.startswith(before + "/")):
        return _rooted(whole[len(before) :])
    return whole


def _rooted(path: str) -> str:
    return path if path[:1] == "/" != path[1:2] else "/" + path.lstrip("/")
