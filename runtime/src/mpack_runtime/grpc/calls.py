"""Calls on their way to the model: who may ask, how many at once, how long each may take, what is told of them.

A call waits in a thread for its turn with the model, as requests over HTTP do, and as many as those. Its phases
have MPACK_TIMEOUT seconds each: reading, and the model's answer, after which the worker process is replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Union

import grpc

from mpack_runtime.config import Settings
from mpack_runtime.errors import BadRequest, RuntimeFault
from mpack_runtime.gate import FULL, refusal
from mpack_runtime.grpc.protocol import Answer
from mpack_runtime.headers import printable, request_id
from mpack_runtime.rest.access_log import JsonAccessLog
from mpack_runtime.rest.deadline import WORKING, Deadlines
from mpack_runtime.rest.metrics import Metrics
from mpack_runtime.rest.roads import BUG
from mpack_runtime.rest.routes import ROADS, group

if TYPE_CHECKING:
    from mpack_runtime.rest.operations import Operations

#: HTTP's statuses of the same answers, by which metrics count; other ones are INVALID_ARGUMENT or, from 500, INTERNAL.
CODES = {
    200: grpc.StatusCode.OK,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
#: Seconds in which the word that the model is late must leave for its client, before the process ends.
_LAST_WORDS = 1.0
#: A status' words travel in a header, of which clients take 8 kB; a byte beyond printable ASCII is three there.
_WORDS = 2400

Work = Callable[[bytes], Answer]
Outcome = Union[Answer, RuntimeFault]


class Call:
    """One call: its path, what came with it, and when it began."""

    def __init__(self, path: str, context: Any) -> None:
        self.path, self.begun = path, time.perf_counter()
        pairs = context.invocation_metadata() or ()
        self.metadata = {str(key): value for key, value in pairs if isinstance(value, str)}
        given = self.metadata.get("request-id") or self.metadata.get("x-request-id") or ""
        self.request_id = request_id(given)
        self.peer = context.peer()
        self.counted = False
        self.trace_id: str | None = None
        #: The client has been told of its end.
        self.ended = threading.Event()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.perf_counter() - self.begun


class Calls:
    """What a worker's calls share. Made in the event loop."""

    def __init__(
        self, settings: Settings, metrics: Metrics, deadlines: Deadlines, operations: Operations | None
    ) -> None:
        assert settings.grpc is not None
        self._limit, self._timeout = settings.grpc.calls, settings.timeout
        self._metrics, self._deadlines = metrics, deadlines
        self._guard = operations.guard if operations else None
        self._tracing = operations.tracing if operations else None
        self._keep = self._keeper(operations)
        self._patience = settings.load.queue_timeout
        self._threads = min(settings.threads + settings.load.queue, self._limit)
        self._pool = ThreadPoolExecutor(self._threads, "grpc")
        self._busy = 0
        self._there = 0
        self._ended: asyncio.Event | None = None

    @staticmethod
    def _keeper(operations: Operations | None) -> Callable[[Call, bytes, Outcome], None] | None:
        """What hands predictions to the recorder, where there is one."""
        recorder = operations.recorder if operations else None
        if recorder is None:
            return None
        from mpack_runtime.grpc.record import exchange

        def keep(call: Call, body: bytes, found: Outcome) -> None:
            status, answer = (200, found.body) if isinstance(found, Answer) else (found.status, found.message)
            made = exchange(call.path, call.metadata, body, status, call.request_id, answer)
            recorder.keep(made, len(body) + len(answer) + 4096)

        return keep

    async def drain(self, grace: float) -> None:
        """Refuses new calls from now on; returns when those that are there have ended, or `grace` seconds are over."""
        self._ended = asyncio.Event()
        if self._there:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._ended.wait(), grace)

    def close(self) -> None:
        """No call is left."""
        self._pool.shutdown(wait=False)

    def model(self, path: str, work: Work) -> Any:
        """A handler whose work is the model's."""

        async def answer(call: Call, context: Any) -> Answer:
            if self._ended is not None:
                raise BadRequest("The service stops.", 503)
            if self._there >= self._limit:
                raise BadRequest(f"The service has {self._limit} calls already (MPACK_GRPC_CALLS); try again.", 429)
            self._there += 1
            try:
                return await self._ask(call, work, await self._read(context))
            finally:
                self._there -= 1
                if not self._there and self._ended is not None:
                    self._ended.set()

        return self._handler(path, answer)

    def light(self, path: str, work: Callable[[bytes], bytes]) -> Any:
        """A handler whose work takes no time, so that it is answered however busy the model is."""

        async def answer(call: Call, context: Any) -> Answer:
            return Answer(work(await self._read(context)))

        return self._handler(path, answer)

    def _handler(self, path: str, answer: Callable[[Call, Any], Awaitable[Answer]]) -> Any:
        # As a stream of one message, which looks the same to clients: so what may not ask is refused before its
        # message is read, and one that sends too slowly is cut off.
        async def handle(_: Any, context: Any) -> bytes:
            call = Call(path, context)
            status, words = 499, "The client went away."
            try:
                self.let_in(call)
                given = await answer(call, context)
                self._tell(call, context, given)
                status = 200
                return given.body
            except RuntimeFault as error:
                status, words = error.status, error.message
            except Exception as error:
                traceback.print_exception(type(error), error, error.__traceback__, file=sys.stderr)
                status, words = 500, BUG
            finally:
                self.done(call, status)
            return await self.refuse(call, context, status, words)

        return grpc.stream_unary_rpc_method_handler(handle)

    def let_in(self, call: Call) -> None:
        """Raises BadRequest: 401 without the token that a call needs, 503 while tokens cannot be checked."""
        found = self._guard.refusal(call.metadata.get("authorization", ""), call.path) if self._guard else None
        if found is not None:
            raise BadRequest(found.message, found.status)

    def done(self, call: Call, status: int) -> None:
        """Counts a call, unless it was counted where the model was asked, and writes its line."""
        if not call.counted:
            self._metrics.start()
            self._metrics.end(call.path, status, call.seconds)
        JsonAccessLog.write(
            method="gRPC",
            path=call.path,
            status=status,
            code=code_of(status).name,
            ms=round(call.seconds * 1000, 3),
            remote=_address(call.peer),
            agent=call.metadata.get("user-agent"),
            request_id=call.request_id,
            **({} if call.trace_id is None else {"trace_id": call.trace_id}),
        )

    async def refuse(self, call: Call, context: Any, status: int, words: str) -> bytes:
        """Ends a call with its status."""
        try:
            await context.abort(code_of(status), _short(words), (("request-id", call.request_id),))
        finally:
            call.ended.set()
        return b""  # for abort raises

    async def _read(self, context: Any) -> bytes:
        try:
            body = await asyncio.wait_for(context.read(), self._timeout)
        except asyncio.TimeoutError:
            raise BadRequest(f"The request did not arrive within {self._timeout} seconds.", 408) from None
        if isinstance(body, bytes):
            return body
        # gRPC drops what is too large, and tells its client so; here it looks like nothing, which nobody sends.
        raise BadRequest("The message is larger than MPACK_MAX_BODY allows, or there is none.", 413)

    async def _ask(self, call: Call, work: Work, body: bytes) -> Answer:
        if self._busy >= self._threads:
            # None waits for a thread: nobody would tell it that its time is over.
            self._metrics.refused(FULL)
            raise refusal(FULL, self._patience)
        self._busy += 1
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[Outcome] = loop.create_future()
        call.counted = True

        def answered(found: Outcome) -> None:
            if not outcome.done():  # else the client went away, or was told that the model is late
                outcome.set_result(found)

        def late() -> None:
            loop.call_soon_threadsafe(answered, BadRequest(self._deadlines.late_message, 504))
            call.ended.wait(_LAST_WORDS)

        def ended(inner: asyncio.Future[Outcome]) -> None:
            # Only the thread's end frees its place, not that of the call.
            self._busy -= 1
            error = inner.exception()
            if error is not None:
                traceback.print_exception(type(error), error, error.__traceback__, file=sys.stderr)
            answered(inner.result() if error is None else RuntimeFault(BUG))

        loop.run_in_executor(self._pool, self._work, call, work, body, late).add_done_callback(ended)
        found = await outcome
        if isinstance(found, RuntimeFault):
            raise found
        return found

    def _work(self, call: Call, work: Work, body: bytes, late: Callable[[], None]) -> Outcome:
        """In a thread: the answer or the refusal, counted and kept."""
        self._metrics.start()
        self._deadlines.begin(late, WORKING)
        try:
            found = self._traced(call, work, body)
        finally:
            self._deadlines.end()
        status, rows = (200, found.rows) if isinstance(found, Answer) else (found.status, 0)
        self._metrics.end(call.path, status, call.seconds, rows)
        if self._keep is not None and group(call.path) in ROADS:
            self._keep(call, body, found)
        return found

    def _traced(self, call: Call, work: Work, body: bytes) -> Outcome:
        """The answer or the refusal, in a span of its own where traces are wanted."""
        if self._tracing is None:
            return _outcome(work, body)
        service, _, method = call.path[1:].partition("/")
        about = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
        with self._tracing.request(call.path[1:], call.metadata, about) as request:
            call.trace_id = request.trace_id
            found = _outcome(work, body)
            code = code_of(200 if isinstance(found, Answer) else found.status)
            request.span.set_attribute("rpc.grpc.status_code", code.value[0])
            if isinstance(found, RuntimeFault) and found.status >= 500:
                self._tracing.fail(request, code.name)
            return found

    def _tell(self, call: Call, context: Any, given: Answer) -> None:
        told = [("request-id", call.request_id)]
        if given.warnings:
            told.append(("mpack-warning", printable("; ".join(given.warnings))))
        context.set_trailing_metadata(tuple(told))


def _outcome(work: Work, body: bytes) -> Outcome:
    try:
        return work(body)
    except RuntimeFault as error:
        return error
    except Exception as error:
        traceback.print_exception(type(error), error, error.__traceback__, file=sys.stderr)
        return RuntimeFault(BUG)


def code_of(status: int) -> grpc.StatusCode:
    """gRPC's code of an HTTP status."""
    return CODES.get(status, grpc.StatusCode.INVALID_ARGUMENT if status < 500 else grpc.StatusCode.INTERNAL)


def _short(words: str) -> str:
    """As many characters as a header may carry."""
    size = 0
    for index, character in enumerate(words):
        size += 1 if " " <= character <= "~" else 3 * len(character.encode("utf-8", "replace"))
        if size > _WORDS:
            return words[:index] + "…"
    return words.encode("utf-8", "replace").decode()


def _address(peer: str) -> str:
    """The client's address of gRPC's "ipv4:127.0.0.1:53210"."""
    return re.sub(r":\d+$", "", peer.partition(":")[2]).replace("%5B", "").replace("%5D", "").strip("[]")
