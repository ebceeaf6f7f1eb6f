"""Writing a run down while it is under way, however it ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mpack.errors import EXIT_INTERRUPTED, MpackError
from mpack.packing.documents import masked
from mpack.progress import Progress
from mpack.results import FAILED, NO_ARTIFACT, SUCCEEDED, Results

#: Characters of a log that are kept: the last ones.
LOG = 1 << 16


class LoggedProgress(Progress):
    """A Progress whose lines can be had afterwards, as `log`."""

    def __init__(self, phases: int) -> None:
        super().__init__(phases)
        self._kept: deque[str] = deque()
        self._length = 0

    @property
    def log(self) -> str:
        return "".join(self._kept)[-LOG:]

    def keep(self, text: str) -> None:
        """Puts a line into the log alone."""
        self._kept.append(f"{text}\n")
        self._length += len(text) + 1
        while self._length - len(self._kept[0]) > LOG:
            self._length -= len(self._kept.popleft())

    def warn(self, text: str) -> None:
        self.keep(f"warning: {text}")
        super().warn(text)

    def _line(self, text: str) -> None:
        self.keep(text)
        super()._line(text)


@contextmanager
def recorded(
    results: Results,
    packaging: str,
    document: Mapping[str, Any],
    facts: Mapping[str, Any],
    progress: LoggedProgress,
    known: Callable[[BaseException], MpackError],
) -> Iterator[dict[str, Any]]:
    """Gives a dictionary for what comes of the run, and writes it down at the end with state, message, times and log.

    `known` makes an error one of ours. Raises as `Results` before anything is done; afterwards what cannot be written
    down is a warning.
    """
    recording = results.begin(packaging, masked(document), masked(facts))
    found, state = dict(facts), SUCCEEDED
    try:
        yield found
        found |= {"message": "", "exit_code": 0}
    except BaseException as error:
        state, message, code = _ending(error, known)
        progress.keep(f"mpack: {message}")
        found |= {"message": message, "exit_code": code}
        raise
    finally:
        found["timings"] = dict(progress.timings)
        try:
            recording.finish(state, masked(found), str(masked(progress.log)))
        except MpackError as error:
            progress.warn(f"this run is not written down: {error.message}")


def _ending(error: BaseException, known: Callable[[BaseException], MpackError]) -> tuple[str, str, int]:
    """State, message and exit code."""
    if isinstance(error, KeyboardInterrupt):
        return FAILED, "interrupted", EXIT_INTERRUPTED
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else 1
        return FAILED, f"ended by signal {code - 128}" if code > 128 else "ended", code
    told = known(error)
    return NO_ARTIFACT if told.code == "artifact-missing" else FAILED, told.message, told.exit_code
