"""What the layers are that come of a Dockerfile."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mpack.dockerfile.render import WORK, Stage, instructions, render
from mpack.plan import ImagePlan

_TREE = re.compile(r'COPY \["trees/\d+-([a-z]+)/"')


def layer_kinds(plan: ImagePlan, template: Path, count: int, base: int) -> Sequence[str]:
    """The kinds of an image's `count` layers, the lowest `base` of which are the base's; what a template's own steps
    added counts as dependencies.

    Each step of the last stage that may change a file is a layer, for BuildKit WORKDIR too.
    """
    lines = instructions(render(plan, template, Stage(base="base")))
    last = max(number for number, line in enumerate(lines) if line.upper().startswith("FROM "))
    for words in (("COPY", "ADD", "RUN"), ("COPY", "ADD", "RUN", "WORKDIR")):
        steps = [line for line in lines[last + 1 :] if line.split(None, 1)[0].upper() in words]
        if len(steps) == count - base:
            return ["base"] * base + [_kind(step) for step in steps]
    return ["base"] * min(base, count) + ["dependencies"] * (count - base)


def _kind(step: str) -> str:
    if tree := _TREE.match(step):
        return tree[1]
    return "bytecode" if step.startswith(f'COPY --from=environment ["{WORK}/bytecode/"') else "dependencies"
