"""Values as Dockerfile text, so that nothing in a plan can change what a line means.

ENV, LABEL, COPY, WORKDIR and USER expand variables and take backslashes; the exec forms of RUN, CMD, ENTRYPOINT and
HEALTHCHECK are plain JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from mpack.errors import InputError

#: Dockerfile parsers read lines of at most 65,535 bytes; longer ones are cut into continued lines of this many letters.
_FOLD = 8000


def quoted(value: str) -> str:
    """A double-quoted value of ENV or LABEL. Raises InputError template-invalid on a line break or a NUL."""
    _one_line(value)
    return '"' + re.sub(r'([\\"$])', r"\\\1", value) + '"'


def word(value: str) -> str:
    """A value of WORKDIR, USER or STOPSIGNAL, or of one COPY path, unquoted."""
    _one_line(value)
    return re.sub(r"([^A-Za-z0-9_./:@+-])", r"\\\1", value)


def exec_form(values: Sequence[str]) -> str:
    """A command as JSON, for RUN, CMD, ENTRYPOINT and HEALTHCHECK."""
    return json.dumps(list(values), ensure_ascii=False)


def copy_form(paths: Sequence[str]) -> str:
    """Paths of COPY or ADD as JSON; their variables are expanded even there, so `$` and backslashes are escaped."""
    return exec_form([word(path) for path in paths])


def env_name(name: str) -> str:
    """The name of an environment variable. Raises InputError template-invalid on one that ENV cannot take."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", name):
        raise InputError("template-invalid", f"{name!r} cannot be the name of a variable in a Dockerfile.")
    return name


def image_name(name: str) -> str:
    """A name for FROM. Raises InputError template-invalid on what no image is called, such as a second line."""
    if not re.fullmatch(r"[^\s$\x00-\x1f\x7f-][^\s$\x00-\x1f\x7f]*", name):
        raise InputError("template-invalid", f"{name[:60]!r} cannot be the base of a Dockerfile.")
    return name


def port(value: str | int) -> str:
    """A port of EXPOSE. Raises InputError template-invalid on anything else."""
    if not re.fullmatch(r"\d{1,5}(-\d{1,5})?(/[a-z]{1,8})?", str(value)):
        raise InputError("template-invalid", f"{str(value)[:60]!r} is not a port.")
    return str(value)


def fold(text: str) -> str:
    """`text` with over-long lines continued on the next, cut where a parser joins them to the same line again."""
    return "\n".join(line if line.startswith("#") else _fold_line(line) for line in text.split("\n"))


def _fold_line(line: str) -> str:
    parts = []
    while len(line) > _FOLD:
        cut = _FOLD
        # Not after a backslash, which would become part of another escape; and not before what a parser could take
        # for a comment or strip.
        while line[cut].isspace() or line[cut] == "#" or line[cut - 1] == "\\":
            cut -= 1
            if cut == 0:
                raise InputError(
                    "template-invalid",
                    f"A line of {len(line)} letters cannot be written into a Dockerfile.",
                    "Use --builder embedded, which needs no Dockerfile.",
                )
        parts.append(line[:cut])
        line = line[cut:]
    return "\\\n".join([*parts, line])


def _one_line(value: str) -> None:
    if re.search(r"[\r\n\x00]", value):
        raise InputError(
            "template-invalid",
            f"The value {value[:60]!r} has a line break, which a Dockerfile cannot hold.",
            "Use --builder embedded, which needs no Dockerfile.",
        )
