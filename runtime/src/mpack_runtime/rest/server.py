"""`serve`: gunicorn around the application, started in this process; ready only when the model has answered."""

from __future__ import annotations

import gc
import mmap
import os
import resource
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from mpack_runtime import loaders, selfcheck
from mpack_runtime.config import ModelConfig, Settings
from mpack_runtime.errors import RuntimeFault
from mpack_runtime.gate import Gate
from mpack_runtime.rest.access_log import JsonAccessLog
from mpack_runtime.rest.admission import Admission, RequestWatch
from mpack_runtime.rest.app import RestApp, connect
from mpack_runtime.rest.deadline import Deadlines
from mpack_runtime.rest.gunicorn_worker import Worker, adapt
from mpack_runtime.rest.lanes import Arrival, Lanes
from mpack_runtime.rest.metrics import Metrics
from mpack_runtime.rest.quick import Pace, Quick
from mpack_runtime.rest.refusals import Log, Refusals
from mpack_runtime.service import Service
from mpack_runtime.turns import take_turns

if TYPE_CHECKING:
    import socket

    from mpack_runtime.grpc.server import GrpcServer
    from mpack_runtime.rest.crew import Crew
    from mpack_runtime.rest.deputy import Deputy
    from mpack_runtime.rest.operations import Operations

__all__ = ["Server", "connect", "serve"]

_REASON_BYTES = 4096
#: Threads that read, check and hand over predictions beyond those that ask the model: so many can be joined in a call.
_AHEAD, _AHEAD_ALONE = 16, 2
#: Connections of a worker at most, of which half may be kept alive without a request; files that it needs else.
_CONNECTIONS, _FILES = 4096, 128
#: Objects made, less those freed, after which Python looks for garbage among them.
_YOUNG = 20_000
#: Seconds that a worker may take at its end to write what it keeps of requests; docker stop gives ten for everything.
_FLUSH = 5.0


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn's application object: its configuration, its hooks, and the model's WSGI application.

    The model is loaded in the master where its framework may be forked, else in each worker; each worker asks it the
    sample before it takes a request. Master and workers share one byte a worker (loaded or not) and a reason.
    """

    def __init__(self, config: ModelConfig, settings: Settings) -> None:
        self.config = config
        self.settings = settings
        self.service: Service | None = None
        self.deadlines = Deadlines(settings.timeout)
        self.arrival = Arrival()
        self.capacity = settings.threads + settings.load.queue
        self.crew: Crew | None = None
        if settings.workers is None:
            from mpack_runtime.rest.crew import Crew

            self.crew = Crew()
        slots = (settings.workers or (self.crew.most if self.crew else 1)) + 1
        self.metrics = Metrics(slots)
        self.deadlines.late.append(self.metrics.late)
        self._loaded = mmap.mmap(-1, slots)
        self._reason = mmap.mmap(-1, _REASON_BYTES)
        self._slot = 0
        self._operations: Operations | None = None
        self._grpc: GrpcServer | None = None
        self._gate: Gate | None = None
        self._pace = Pace()
        self._traced = False
        if any(name.startswith("OTEL_") for name in os.environ):
            from mpack_runtime import tracing

            self._traced = tracing.wanted()
        super().__init__()

    def load_config(self) -> None:
        settings = self.settings
        connections = max(16, min(_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _FILES))
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        values: dict[str, Any] = {
            "bind": f"{host}:{settings.port}",
            "workers": settings.workers or (self.crew.number if self.crew else 1),
            # Of its threads gunicorn takes only the number (see Worker): those connections are for requests.
            "threads": connections // 2,
            "worker_connections": connections,
            "worker_class": f"{Worker.__module__}.{Worker.__name__}",
            "timeout": settings.timeout,
            "graceful_timeout": settings.timeout,
            "keepalive": 15,
            "accesslog": "-",
            "logger_class": JsonAccessLog,
            "loglevel": "warning",
            "control_socket_disable": True,
            "pre_fork": self._pre_fork,
            "post_fork": self._post_fork,
            "worker_int": self._worker_int,
            "worker_exit": self._worker_exit,
            "child_exit": self._child_exit,
            "on_exit": self._on_exit,
        }
        for key, value in values.items():
            if key in self.cfg.settings:  # releases of gunicorn differ in what they know
                self.cfg.set(key, value)

    def lanes(self, log: Log) -> Lanes:
        """In a worker: its threads; `log` writes to the access log what they do not see."""
        ahead = _AHEAD if self.settings.load.batching != "off" else _AHEAD_ALONE
        # Where a token is wanted, who has none is told that, and not that the service is busy.
        refusals = None if self.settings.auth else Refusals(self.metrics, log)
        return Lanes(self.settings.threads + ahead, self.capacity, self.arrival, self.metrics, refusals)

    def quick(self, worker: Any, deputy: Deputy) -> Quick | None:
        """In a worker that has loaded the model: what answers in its loop. None: nothing may be answered there,
        for requests wait for others, or operators put around them what may wait for something else."""
        load = self.settings.load
        if self._gate is None or self._operations is not None or load.batching == "on" or load.max_batch_delay:
            return None
        return Quick(worker, deputy, self._gate, self._pace, self.deadlines)

    def _observe(self, seconds: float, rows: int) -> None:
        self._pace.called(seconds)
        self.metrics.predicted(seconds, rows)

    def load(self) -> Any:
        """In a worker: the WSGI application around a model that answers its sample; a failure ends the container."""
        # A worker that still loads has nothing to finish: SIGTERM ends it at once.
        handler = signal.signal(signal.SIGTERM, signal.SIG_DFL)
        gc.disable()
        try:
            service = self.service or Service.load(self.config)
            app = RestApp(service, self.settings, self.metrics, self.deadlines)
            app.answer = selfcheck.ask_sample(service, connect(service))
            service.observe, service.blame = self._observe, self.metrics.failed
            self._gate = gate = take_turns(
                service, self.settings, RequestWatch(self.metrics, self.deadlines, self.arrival)
            )
            wsgi = self._around(app.flask(), service, gate)
            self._listen(service)
        except RuntimeFault as error:
            self._fail(error.message)
        except Exception as error:
            self._fail(f"The model cannot be served: {type(error).__name__}: {error}")
        _freeze()
        app.ready = True
        self._loaded[self._slot] = 1
        if self.crew is not None:
            self.crew.measure()
        signal.signal(signal.SIGTERM, handler)
        settings, model = self.settings, self.config
        ports = f"{settings.port}" if settings.grpc is None else f"{settings.port}, gRPC on {settings.grpc.port}"
        # In one piece, for others write to stderr too.
        sys.stderr.write(f"{model.name} {model.version} is ready on {settings.host}:{ports}\n")
        sys.stderr.flush()
        return wsgi

    def _around(self, app: Any, service: Service, gate: Gate) -> Any:
        """The application behind the gate's refusals, with the guard, recorder and traces that the settings want."""

        def admitted(app: Any) -> Admission:
            return Admission(app, gate, self.arrival, self.metrics, self.deadlines)

        if self.settings.log is None and self.settings.auth is None and not self._traced:
            return admitted(app)
        from mpack_runtime.rest.operations import Operations

        self._operations = Operations(service, self.settings, self.metrics, self.deadlines, traced=self._traced)
        return self._operations.around(app, admitted)

    def _listen(self, service: Service) -> None:
        """Starts gRPC's server if it is wanted. Raises RuntimeFault."""
        if self.settings.grpc is None:
            return
        # Never before a fork: gRPC's threads and locks do not outlive one.
        from mpack_runtime.grpc.server import GrpcServer

        self._grpc = GrpcServer(service, self.settings, self.metrics, self.deadlines, self._operations)
        self._grpc.start()

    def stopping(self) -> None:
        """In a worker that was told to end: what is not gunicorn's takes no more requests either."""
        if self._grpc is not None:
            self._grpc.stop()

    def _fail(self, reason: str) -> NoReturn:
        text = " ".join(reason.split()).encode()[: _REASON_BYTES - 1]
        self._reason[: len(text)] = text
        sys.exit(1)

    def _pre_fork(self, server: Arbiter, worker: Any) -> None:
        worker.slot = self.metrics.reserve()
        self._loaded[worker.slot] = 0

    def _post_fork(self, server: Arbiter, worker: Any) -> None:
        self._slot = worker.slot
        self.metrics.take(worker.slot)

    def _worker_int(self, worker: Any) -> None:
        """The worker ends at once."""
        if self._grpc is not None:
            self._grpc.stop(grace=0)

    def _worker_exit(self, server: Arbiter, worker: Any) -> None:
        if self._grpc is not None:
            self._grpc.close()
        if self._operations is not None:
            self._operations.close(_FLUSH)

    def _child_exit(self, server: Arbiter, worker: Any) -> None:
        self.metrics.release(worker.slot)
        # Without listeners the server is stopping already. A worker that never loaded would never load.
        if server.LISTENERS and not self._loaded[worker.slot]:
            raise HaltServer(None, 1)

    def _on_exit(self, server: Arbiter) -> None:
        """The last word of the container, in the master."""
        reason = self._reason[:].rstrip(b"\0").decode(errors="replace")
        if reason:
            print(reason, file=sys.stderr, flush=True)
        elif not any(self._loaded):
            print(
                "A worker process ended while it loaded the model (killed for want of memory?).",
                file=sys.stderr,
                flush=True,
            )


def serve(config: ModelConfig, settings: Settings) -> int:
    """Serves until SIGTERM. Raises LoadFailure; exits the process with 1 where a worker cannot load or answer."""
    # As process 1 of a container, SIGTERM would be ignored until gunicorn has its own handler.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    adapt()
    JsonAccessLog.keep_stdout()
    server = Server(config, settings)
    held = _hold_port(settings)
    if loaders.forkable(config):
        server.service = Service.load(config)
    _freeze()
    if server.crew is not None:
        from mpack_runtime.rest.crew import Growing

        Growing(server, server.crew, settings.threads_per_worker).run()
    else:
        Arbiter(server).run()
    if held is not None:
        held.close()
    return 0


def _hold_port(settings: Settings) -> socket.socket | None:
    """Keeps gRPC's port for the workers. Raises RuntimeFault where that is not possible."""
    if settings.grpc is None:
        return None
    from mpack_runtime.grpc.port import reserve

    return reserve(settings.host, settings.grpc)


def _freeze() -> None:
    """Collects from now on, never among what is there already: that stays, and workers share its memory untouched.

    It is not collected first: of 250,000 objects a thousand would go, for a tenth of a second. A request of a thousand
    rows makes as many lists, none of which is garbage that needs a collector.
    """
    gc.freeze()
    gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])
    gc.enable()
