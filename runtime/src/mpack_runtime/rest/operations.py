"""What operators may put around the application: a guard that wants a token, a recorder of predictions and feedback."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from mpack_runtime.config import Settings
from mpack_runtime.rest.deadline import Deadlines
from mpack_runtime.rest.metrics import Metrics
from mpack_runtime.service import Service

if TYPE_CHECKING:
    from mpack_runtime.rest.guard import Guard
    from mpack_runtime.rest.journal import Journal
    from mpack_runtime.rest.recorder import Recorder

Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]
#: Seconds that a worker that must end at once may take to write what it has.
_LATE = 1.0


class Operations:
    """Made in each worker; `around` is the application with what the settings want. `close` writes what waits."""

    def __init__(self, service: Service, settings: Settings, metrics: Metrics, deadlines: Deadlines) -> None:
        """Raises SettingsError where nothing can be written in MPACK_LOG_DIR."""
        self._service, self._settings = service, settings
        self._metrics, self._deadlines = metrics, deadlines
        self._journal: Journal | None = None
        #: What `around` made, for roads that are not WSGI.
        self.guard: Guard | None = None
        self.recorder: Recorder | None = None
        if settings.log is not None:
            from mpack_runtime.rest.journal import Journal
            from mpack_runtime.rest.journal_files import Files

            files = Files(Path(settings.log.directory), service.config.name, settings.log.rotate)
            journal = self._journal = Journal(files, metrics.logged)
            deadlines.late.append(lambda: journal.close(_LATE))

    def around(self, app: Wsgi) -> Wsgi:
        """The application with what the settings want around it."""
        if self._journal is not None and self._settings.log is not None:
            from mpack_runtime.rest.recorder import Recorder
            from mpack_runtime.rest.redact import Redactor

            config, signature, log = self._service.config, self._service.signature, self._settings.log
            inputs = [field.name or "" for field in signature.inputs]
            redactor = Redactor(log.redact, inputs, signature.output_names)
            model = (config.name, config.version)
            wires = (self._journal, redactor, self._metrics, self._deadlines)
            app = self.recorder = Recorder(app, model, *wires, log.sample, self._settings.max_body)
        if self._settings.auth is not None:
            from mpack_runtime.rest.guard import Guard

            app = self.guard = Guard(app, self._settings.auth, self._metrics)
        return app

    def close(self, timeout: float) -> None:
        """Writes what waits, for `timeout` seconds at most."""
        if self._journal is not None:
            self._journal.close(timeout)


def preload() -> None:
    """Imports what the settings may want and what /metrics imports, so that the self-check can tell their sources."""
    for module in ("exposition", "guard", "recorder"):
        importlib.import_module(f"mpack_runtime.rest.{module}")
