"""Durations on the command line: 30m, 12h, 7d, 2w."""

from __future__ import annotations

import re

import click

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """An option's callback: "7d" as seconds."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d{1,6})([smhdw])", value.strip())
    if match is None:
        raise click.BadParameter(f"{value!r} is not a duration like 12h, 7d or 2w", ctx, param)
    return float(int(match[1]) * _SECONDS[match[2]])
