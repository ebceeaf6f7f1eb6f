"""What operators may put around the application: a guard that wants a token, a recorder of predictions and feedback."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from mpack_runtime.config import LogSettings, Settings
from mpack_runtime.rest.deadline import Deadlines
from mpack_runtime.rest.metrics import Metrics
from mpack_runtime.service import Service

if TYPE_CHECKING:
    from mpack_runtime.rest.guard import Guard
    from mpack_runtime.rest.journal import Journal
    from mpack_runtime.rest.recorder import Recorder
    from mpack_runtime.tracing import Tracing

Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]
#: Seconds that a worker that must end at once may take to write what it has.
_LATE = 1.0


class Operations:
    """Made in each worker; `around` is the application with what the settings want. `close` writes what waits."""

    def __init__(
        self, service: Service, settings: Settings, metrics: Metrics, deadlines: Deadlines, *, traced: bool = False
    ) -> None:
        """Raises SettingsError where nothing can be written in MPACK_LOG_DIR."""
        self._service, self._settings = service, settings
        self._metrics, self._deadlines = metrics, deadlines
        self._journal: Journal | None = None
        #: What `around` made, for roads that are not WSGI.
        self.guard: Guard | None = None
        self.recorder: Recorder | None = None
        self.tracing: Tracing | None = None
        if traced:
            from mpack_runtime.tracing import Tracing

            tracing = self.tracing = Tracing(service.config.name, service.config.version)
            tracing.watch(service)
            deadlines.late.append(lambda: tracing.late(_LATE))
        if settings.log is not None:
            journal = self._journal = _journal(settings.log, service.config.name, metrics)
            deadlines.late.append(lambda: journal.close(_LATE))

    def around(self, app: Wsgi, admitted: Callable[[Wsgi], Wsgi]) -> Wsgi:
        """The application with what the settings want around it; what `admitted` refuses is not recorded."""
        if self._journal is not None and self._settings.log is not None:
            from mpack_runtime.rest.recorder import Recorder
            from mpack_runtime.rest.redact import Redactor

            config, signature, log = self._service.config, self._service.signature, self._settings.log
            inputs = [field.name or "" for field in signature.inputs]
            redactor = Redactor(log.redact, inputs, signature.output_names)
            model = (config.name, config.version)
            wires = (self._journal, redactor, self._metrics, self._deadlines)
            app = self.recorder = Recorder(app, model, *wires, log.sample, self._settings.max_body)
        app = admitted(app)
        if self._settings.auth is not None:
            from mpack_runtime.rest.guard import Guard

            app = self.guard = Guard(app, self._settings.auth, self._metrics)
        if self.tracing is not None:
            from mpack_runtime.rest.traced import Traced

            app = Traced(app, self.tracing)
        return app

    def close(self, timeout: float) -> None:
        """Writes what waits, for `timeout` seconds at most."""
        end = time.monotonic() + timeout
        if self._journal is not None:
            self._journal.close(timeout)
        if self.tracing is not None:
            self.tracing.close(max(_LATE, end - time.monotonic()))


def _journal(log: LogSettings, name: str, metrics: Metrics) -> Journal:
    """Raises SettingsError."""
    from mpack_runtime.rest.journal import Journal

    if log.is_url:
        from mpack_runtime.rest.object_journal import ObjectJournal, store

        return ObjectJournal(store(log.directory), name, metrics.logged, log.rotate, log.every)
    from mpack_runtime.rest.journal_files import Files

    return Journal(Files(Path(log.directory), name, log.rotate), metrics.logged)


def preload() -> None:
    """Imports what the settings may want and what /metrics imports, so that the self-check can tell their sources."""
    for module in ("crew", "exposition", "guard", "object_journal", "recorder", "traced"):
        importlib.import_module(f"mpack_runtime.rest.{module}")
    from mpack_runtime import extras, tracing
    from mpack_runtime.rest.object_journal import PACKAGES

    tracing.preload()
    extras.preload("mpack_runtime.rest.jwks", *PACKAGES.values())
