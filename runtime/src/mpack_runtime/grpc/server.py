"""gRPC's server of one worker process: an event loop in a thread of its own, on a port that all workers share."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import traceback
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Any

# gRPC's own log has nothing for operators: what a client does wrong is in the access log.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

from mpack_runtime.config import Settings
from mpack_runtime.errors import BadRequest, RuntimeFault
from mpack_runtime.grpc import health
from mpack_runtime.grpc.calls import Call, Calls
from mpack_runtime.grpc.messages import HEALTH, INFERENCE, METHODS, REFLECTION
from mpack_runtime.grpc.protocol import Protocol
from mpack_runtime.grpc.reflection import Reflection
from mpack_runtime.rest.deadline import Deadlines
from mpack_runtime.rest.metrics import Metrics
from mpack_runtime.service import Service

if TYPE_CHECKING:
    from mpack_runtime.rest.operations import Operations

#: Streams (health's Watch, reflection) that a worker keeps open at once.
_STREAMS = 100
#: Seconds for clients to hear that the service stops.
_REFUSE = 0.2
_MOST = (1 << 31) - 1


class GrpcServer:
    """Made in a worker whose model has answered; `close` ends it in order."""

    def __init__(
        self,
        service: Service,
        settings: Settings,
        metrics: Metrics,
        deadlines: Deadlines,
        operations: Operations | None = None,
    ) -> None:
        self._service, self._settings = service, settings
        self._parts = (metrics, deadlines, operations)
        self._grace: float = settings.timeout
        self._started = threading.Event()
        self._fault: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._streams = 0
        self._thread = threading.Thread(target=self._run, name="grpc", daemon=True)

    def start(self) -> None:
        """Returns when it listens. Raises RuntimeFault."""
        self._thread.start()
        self._started.wait()
        if self._fault is not None:
            raise RuntimeFault(f"gRPC cannot be served: {self._fault}")

    def stop(self, grace: float | None = None) -> None:
        """Takes no more calls; those that are there have `grace` seconds. Returns at once; for signals too."""
        if grace is not None:
            self._grace = grace
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(self._stopping.set)

    def close(self) -> None:
        """Stops, and returns when the last call has ended."""
        self.stop()
        self._thread.join(self._grace + 1)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._fault = error
            if self._started.is_set():
                # A worker that is left with one of its roads would look well.
                traceback.print_exc(file=sys.stderr)
                os._exit(1)
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        settings = self._settings
        assert settings.grpc is not None
        calls = Calls(settings, *self._parts)
        server = grpc.aio.server(
            options=(
                ("grpc.so_reuseport", 1),
                ("grpc.max_receive_message_length", min(settings.max_body, _MOST)),
                ("grpc.max_send_message_length", -1),
            )
        )
        for service, handlers in self._handlers(calls).items():
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        if not server.add_insecure_port(f"{host}:{settings.grpc.port}"):
            raise OSError(f"{host}:{settings.grpc.port} cannot be listened on")
        await server.start()
        self._started.set()
        await self._stopping.wait()
        # Refused by a handler first: of calls that come while gRPC stops, some would be CANCELLED.
        await calls.drain(self._grace)
        await asyncio.sleep(min(self._grace, _REFUSE))
        await server.stop(min(self._grace, _REFUSE))
        calls.close()

    def _ready(self) -> bool:
        return not self._stopping.is_set()

    def _handlers(self, calls: Calls) -> dict[str, dict[str, Any]]:
        """The handlers by service and method."""
        protocol = Protocol(self._service, self._ready)
        methods = {}
        for name in METHODS:
            path = f"/{INFERENCE}/{name}"
            if name in ("ModelInfer", "ModelMetadata"):
                methods[name] = calls.model(path, partial(protocol.answer, name))
            else:
                methods[name] = calls.light(path, partial(_body, protocol, name))
        handlers = {INFERENCE: methods}
        handlers[HEALTH] = {
            "Check": calls.light(f"/{HEALTH}/Check", lambda body: health.check(body, self._ready())),
            "Watch": self._stream(calls, f"/{HEALTH}/Watch", self._watch),
        }
        for package in REFLECTION:
            path, reflection = f"/{package}.ServerReflection/ServerReflectionInfo", Reflection(package)
            handlers[f"{package}.ServerReflection"] = {
                "ServerReflectionInfo": self._stream(calls, path, partial(self._reflect, reflection))
            }
        return handlers

    def _stream(self, calls: Calls, path: str, answers: Any) -> Any:
        """A handler of a stream: of few at once, and none that delays the end."""

        async def handle(_: Any, context: Any) -> AsyncIterator[bytes]:
            call = Call(path, context)
            status, words = 499, ""
            self._streams += 1
            try:
                calls.let_in(call)
                if self._streams > _STREAMS:
                    raise BadRequest(f"There are {_STREAMS} streams already; try again.", 429)
                async for body in answers(context):
                    yield body
                status = 200
            except RuntimeFault as error:
                status, words = error.status, error.message
            finally:
                self._streams -= 1
                calls.done(call, status)
            if words:
                await calls.refuse(call, context, status, words)

        return grpc.stream_stream_rpc_method_handler(handle)

    async def _watch(self, context: Any) -> AsyncIterator[bytes]:
        body = await self._next(context)
        if body is not None:
            yield health.watched(body, self._ready())
            await self._stopping.wait()
            yield health.watched(body, False)

    async def _reflect(self, reflection: Reflection, context: Any) -> AsyncIterator[bytes]:
        while (body := await self._next(context)) is not None:
            yield reflection.answer(body)

    async def _next(self, context: Any) -> bytes | None:
        """A stream's next message; None: there is none, or the service stops."""
        reading, stopping = asyncio.ensure_future(context.read()), asyncio.ensure_future(self._stopping.wait())
        done, waiting = await asyncio.wait({reading, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        body = reading.result() if reading in done else None
        return body if isinstance(body, bytes) else None


def _body(protocol: Protocol, method: str, body: bytes) -> bytes:
    return protocol.answer(method, body).body
