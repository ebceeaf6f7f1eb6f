"""Keeps predictions, and takes feedback on them: a WSGI application around the model's.

What a prediction costs here is a copy of a few headers and a place in a queue, after the answer has been sent; records
are made and written by the journal's thread. Feedback is answered when it is in the file.
"""

from __future__ import annotations

import random
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Any, Callable
from urllib.parse import parse_qsl

import orjson

from mpack_runtime.errors import BadRequest
from mpack_runtime.headers import PLAIN
from mpack_runtime.rest import prefix, records
from mpack_runtime.rest.body import read_body
from mpack_runtime.rest.deadline import READING, WORKING, WRITING, Deadlines
from mpack_runtime.rest.journal import Journal
from mpack_runtime.rest.metrics import Metrics
from mpack_runtime.rest.redact import Redactor
from mpack_runtime.rest.routes import ROADS, group

Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]
#: Seconds for the disk to take feedback.
_WAIT = 5.0


class Recorder:
    """`sample` is the share of predictions that are kept, 0 to 1; feedback is always kept. `max_body` is bytes."""

    def __init__(
        self,
        app: Wsgi,
        model: tuple[str, str],
        journal: Journal,
        redactor: Redactor,
        metrics: Metrics,
        deadlines: Deadlines,
        sample: float,
        max_body: int,
    ) -> None:
        self._app = app
        self._name, self._version = model
        self._journal = journal
        self._redactor = redactor
        self._metrics = metrics
        self._deadlines = deadlines
        self._sample = sample
        self._max_body = max_body

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = prefix.path(environ)
        of = group(path)
        if of == "feedback":
            return self._feedback(path, environ, start_response)
        if of in ROADS and environ.get("REQUEST_METHOD") == "POST" and random.random() < self._sample:  # noqa: S311
            return self._record(environ, start_response)
        return self._app(environ, start_response)

    def _record(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        seen = {key: value for key, value in environ.items() if key.startswith("HTTP_") or key in _KEPT}
        body = environ["wsgi.input"] = _Tee(environ["wsgi.input"])
        head: list[Any] = []

        def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
            head[:] = [status, headers]
            return start_response(status, headers, *error)

        def done(answer: bytes, size: int) -> None:
            whole, when = len(answer) == size, time.time()
            status, headers = int(head[0].split()[0]), tuple(head[1])
            request = body.kept()
            kept = records.Exchange(seen, request, len(request) == body.size, status, headers, answer, whole, when)
            self._journal.put(
                lambda: records.exchange_lines(kept, self._name, self._version, self._redactor), kept.size
            )

        return _Copied(self._app(environ, start), done)

    def keep(self, exchange: Callable[[], records.Exchange], size: int) -> None:
        """A prediction that came by another road than HTTP, `size` bytes large; it is put together later."""
        if random.random() < self._sample:  # noqa: S311
            self._journal.put(
                lambda: records.exchange_lines(exchange(), self._name, self._version, self._redactor), size
            )

    def _feedback(self, path: str, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        begun = time.perf_counter()
        self._metrics.start()
        try:
            status, answer = 200, self._keep(environ)
        except BadRequest as error:
            status, answer = error.status, {"error": error.message}
        except Exception:
            traceback.print_exc(file=sys.stderr)
            status, answer = 500, {"error": "The service failed on this request; its log has the reason."}
        self._deadlines.enter(WRITING)
        body = orjson.dumps(answer)
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        if status == 405:
            headers.append(("Allow", "POST"))
        if PLAIN.fullmatch(given := _header(environ, "REQUEST_ID", "X_REQUEST_ID")):
            headers.append(("Request-Id", given))
        start_response(f"{status} {HTTPStatus(status).phrase}", headers)
        self._metrics.end(path, status, time.perf_counter() - begun)
        return [body]

    def _keep(self, environ: dict[str, Any]) -> dict[str, Any]:
        """Raises BadRequest."""
        if environ.get("REQUEST_METHOD") != "POST":
            raise BadRequest("Feedback is taken by POST.", 405)
        body = self._body(environ)
        request_id = _header(environ, "REQUEST_ID", "X_REQUEST_ID")
        if not request_id:
            raise BadRequest("request-id header is missed: give the Request-Id of the prediction's answer.")
        name = _header(environ, "X_MODEL_NAME", "MODEL_NAME") or self._name
        version = _header(environ, "X_MODEL_VERSION", "MODEL_VERSION") or self._version
        if name != self._name:
            raise BadRequest(f"x-model-name is {name!r}, but this service is the model {self._name!r}.")
        for text, header in ((request_id, "request-id"), (version, "x-model-version")):
            if text is not self._version and not PLAIN.fullmatch(text):
                raise BadRequest(f"{header} must be printable ASCII without blanks, 128 characters at most.")
        payload = self._redactor.value(_payload(environ, body))
        try:
            line = records.feedback_line(request_id, self._name, version, payload, time.time())
        except TypeError as error:  # nested more deeply than JSON is written
            raise BadRequest(f"Cannot parse data: {error}.") from error
        # Whoever works for longer than the timeout is taken for a model that hangs.
        wait = min(_WAIT, self._deadlines.timeout / 2)
        if not self._journal.deliver(lambda: [line], len(line[3]), wait):
            raise BadRequest("Cannot deliver message: it could not be written; the service's log has the reason.", 502)
        message = {"RequestID": request_id, "ModelVersion": version, "ModelName": self._name, "Payload": payload}
        return {"message": message, "error": False, "registered": True}

    def _body(self, environ: dict[str, Any]) -> bytes:
        try:
            body = read_body(environ, self._max_body)
        except BadRequest as error:
            if not self._deadlines.enter(READING):
                raise BadRequest("The request body did not arrive in time.", 408) from error
            raise
        finally:
            self._deadlines.enter(WORKING)
        if len(body) > records.BODY_LIMIT:
            raise BadRequest(f"Feedback is larger than {records.BODY_LIMIT} bytes.", 413)
        return body


_KEPT = frozenset(("REQUEST_METHOD", "RAW_URI", "PATH_INFO", "QUERY_STRING", "CONTENT_TYPE", "CONTENT_LENGTH"))


class _Tee:
    """A request's body that remembers the beginning of what was read of it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._parts: list[bytes] = []
        self.size = 0

    def read(self, *size: int) -> bytes:
        part: bytes = self._stream.read(*size)
        if self.size < records.BODY_LIMIT:
            self._parts.append(part)
        self.size += len(part)
        return part

    def kept(self) -> bytes:
        return b"".join(self._parts)[: records.BODY_LIMIT]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Copied:
    """An answer that calls `done` with its first BODY_LIMIT bytes and its size when the server is through with it."""

    def __init__(self, answer: Iterable[bytes], done: Callable[[bytes, int], None]) -> None:
        self._answer = answer
        self._done = done
        self._kept = b""
        self._size = 0

    def __iter__(self) -> Iterator[bytes]:
        for part in self._answer:
            if self._size < records.BODY_LIMIT:
                self._kept = (self._kept + part)[: records.BODY_LIMIT]
            self._size += len(part)
            yield part

    def close(self) -> None:
        try:
            close = getattr(self._answer, "close", None)
            if close is not None:
                close()
        finally:
            try:
                self._done(self._kept, self._size)
            except Exception as error:  # the prediction is answered; nothing here may spoil that
                print(f"A prediction cannot be recorded: {error!r}.", file=sys.stderr, flush=True)


def _header(environ: dict[str, Any], *names: str) -> str:
    return next((value for name in names if (value := str(environ.get(f"HTTP_{name}", "")))), "")


def _payload(environ: dict[str, Any], body: bytes) -> dict[str, Any]:
    """What feedback says: JSON, a form, arguments of the address. Raises BadRequest."""
    payload: dict[str, Any] = {}
    arguments = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
    if arguments:
        payload["uri"] = arguments
    form = environ.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded")
    if body.strip():
        try:
            if form and body.lstrip()[:1] not in (b"{", b"["):
                payload["post"] = dict(parse_qsl(body.decode("utf-8"), keep_blank_values=True))
            else:
                payload["json"] = orjson.loads(body)
        except ValueError as error:
            raise BadRequest(f"Cannot parse data: {error}.") from error
    if not payload:
        raise BadRequest("Cannot parse data: the feedback is empty; send JSON.")
    return payload
