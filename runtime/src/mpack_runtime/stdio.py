"""Keeps stdout for results: whatever a model prints while it loads or predicts goes to stderr."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def results() -> Iterator[TextIO]:
    """Points file descriptor 1 to stderr (native code included) and yields the true stdout to write results to.

    What a model prints appears when it is printed, so that an error's sentence stays the last line.
    """
    sys.stdout.flush()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    saved = os.dup(1)
    os.dup2(2, 1)
    with os.fdopen(os.dup(saved), "w", encoding="utf-8") as out:
        try:
            yield out
        finally:
            out.flush()
            sys.stdout.flush()
            os.dup2(saved, 1)
            os.close(saved)
