"""How `mpack pack` prints documents: JSON, YAML, a table, or what a JSONPath finds in them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import click

from mpack.errors import UsageError

Documents = Sequence[Mapping[str, Any]]
_FORMATS = "json, yaml, table or jsonpath=EXPRESSION"


def parse_format(form: str) -> Callable[[Documents], str]:
    """What writes documents in a format. Raises UsageError for another one, and for no JSONPath."""
    kind, equals, expression = form.partition("=")
    if kind == "jsonpath" and expression:
        return _jsonpath(expression)
    plain: dict[str, Callable[[Documents], str]] = {
        "json": json.dumps,
        "yaml": _yaml,
        "table": lambda documents: "\n".join(table(documents)),
    }
    if equals or kind not in plain:
        raise UsageError("usage", f"{form!r} is not an output format.", f"Formats are {_FORMATS}.")
    return plain[kind]


def print_documents(documents: Documents, write: Callable[[Documents], str]) -> None:
    """Prints them on stdout."""
    click.echo(write(documents))


def table(documents: Documents) -> Iterator[str]:
    """A line for each: id, state, image, when."""
    rows = [("ID", "STATE", "IMAGE", "WHEN")]
    for item in documents:
        status = item["status"]
        image = status["results"][0]["value"] if status["results"] else "-"
        rows.append((item["id"], status["state"], image, _when(status["finishedAt"] or status["startedAt"])))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        yield "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]])


def _when(text: str) -> str:
    from mpack.cli.images import age

    then = datetime.fromisoformat(text.replace("Z", "+00:00"))
    spent = age((datetime.now(timezone.utc) - then).total_seconds())
    return spent if spent == "now" else f"{spent} ago"


def _yaml(documents: Documents) -> str:
    import yaml

    # The C library writes a hundred documents in a tenth of the time.
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump(list(documents), Dumper=dumper, sort_keys=False, allow_unicode=True)).rstrip("\n")


def _jsonpath(expression: str) -> Callable[[Documents], str]:
    from jsonpath_ng.exceptions import JSONPathError
    from jsonpath_ng.parser import parse

    def wrong(error: Exception) -> UsageError:
        reason = "it is too long" if isinstance(error, RecursionError) else str(error).rstrip(".")
        hint = "For example: jsonpath=$[0].status.results[0].value"
        return UsageError("usage", f"{expression[:200]!r} is not a JSONPath: {reason}.", hint)

    # Besides its own errors the library raises those of what it works with: regular expressions, numbers, texts.
    mistakes = (JSONPathError, RecursionError, re.error, ValueError, TypeError, ArithmeticError, LookupError)
    try:
        try:
            path = parse(expression)
        except JSONPathError:
            # Filters and the like, which take twice the time to load.
            from jsonpath_ng.ext.parser import parse as parse_more

            path = parse_more(expression)
    except mistakes as error:
        raise wrong(error) from error

    def write(documents: Documents) -> str:
        try:
            found = [match.value for match in path.find(list(documents))]
        except mistakes as error:
            raise wrong(error) from error
        value = found[0] if len(found) == 1 else found
        return value if isinstance(value, str) else json.dumps(value)

    return write
