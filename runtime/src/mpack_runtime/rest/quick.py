"""Small predictions of a quick model, answered by a worker's loop: another thread's turn takes longer than they do.

As in `refusals` only what is certain is done here: a plain request that is all there, while the model need not be
waited for. gunicorn reads its head, which clients say again and again; what differs between two of them alone is how
many bytes follow, so the reading is kept. All else goes to the lanes. `deputy` stands in where an answer takes long.
"""

from __future__ import annotations

import io
import re
import socket
import time
from typing import Any

from gunicorn import SERVER, util
from gunicorn.http import wsgi
from gunicorn.http.parser import RequestParser

from mpack_runtime.gate import Gate
from mpack_runtime.rest import access_log
from mpack_runtime.rest.deadline import WRITING, Deadlines
from mpack_runtime.rest.deputy import Deputy
from mpack_runtime.rest.refusals import plain_prediction
from mpack_runtime.rest.routes import ROADS, group

#: Bytes of the largest request that is answered here, and of those that most are below.
LARGEST, USUAL = 128 << 10, 16 << 10
#: Heads that are remembered, and the bytes of the longest of them.
HEADS, LONGEST = 128, 4096
#: Seconds that a quick model takes; handing a request to a thread takes as long.
QUICK = 3e-4
#: Seconds of the last sixteen or so answers on average, above which threads give them: as many as Python lets a thread
#: run before another one's turn, so that nobody would wait less.
SLOW = 0.005
#: Seconds that one answer counts at most: a container that has used up its processor time stands still for longer, and
#: while one answer hangs the deputy is there.
STILL = 0.06
#: Calls of the model by threads that tell whether it is quick: at first, and at most after mistakes.
CALLS, MOST = 16, 1 << 16
#: Answers that make mistakes forgotten.
FORGIVEN = 1024
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,6})[ \t]*(?=\r\n)", re.IGNORECASE)
#: Headers that are other ones in each request: such a head is not met again.
_ONCE = re.compile(rb"\r\n(x-request-id|request-id|traceparent|x-b3-traceid|ce-id|x-amzn-trace-id):", re.IGNORECASE)


class Pace:
    """Whether the model is `quick`: found by its calls in threads, given up where answers of the loop are
    slow, and found again after more calls than the time before."""

    def __init__(self) -> None:
        self.quick = False
        self._shortest = 1.0
        self._calls = self._left = CALLS
        self._good, self._average = 0, 0.0

    def called(self, seconds: float) -> None:
        """A thread asked the model; the shortest time counts, for others waited for something else."""
        if self.quick:
            return
        self._shortest = min(self._shortest, seconds)
        self._left -= 1
        if self._left <= 0:
            self.quick = self._shortest < QUICK
            self._shortest, self._left = 1.0, self._calls

    def answered(self, seconds: float) -> None:
        """The loop answered a request."""
        self._good += 1
        self._average += (min(seconds, STILL) - self._average) / 16
        if self._average > SLOW:
            self._calls = CALLS if self._good > FORGIVEN else min(2 * self._calls, MOST)
            self.quick, self._left = False, self._calls
            self._good, self._average = 0, 0.0


class Quick:
    """Answers requests of connections that gunicorn's poller or listener has just found."""

    def __init__(self, worker: Any, deputy: Deputy, gate: Gate, pace: Pace, deadlines: Deadlines) -> None:
        """Of gunicorn's worker: its settings, the application, the lanes, what tells a client of an error."""
        self._worker, self._cfg, self._app, self._lanes = worker, worker.cfg, worker.wsgi, worker.tpool
        self._deputy, self._gate, self._pace, self._deadlines = deputy, gate, pace, deadlines
        self._lines: list[bytes] = []
        self._heads: dict[Any, dict[str, Any]] = {}
        self._second, self._date = 0, ""
        self._status = ""
        self._headers: list[tuple[str, str]] = []

    def turn(self) -> None:
        """All connections that had a request have been looked at: what is answered is logged."""
        self._lanes.answered = 0
        if self._lines:
            lines, self._lines = self._lines, []
            access_log.JsonAccessLog.put(*lines)

    def answer(self, conn: Any) -> bytes | bool | None:
        """None: the request is untouched. False: the connection is to be closed. Else it is answered, but for the
        bytes that the client does not take yet."""
        if not self._pace.quick or self._lanes.answered >= self._gate.capacity:
            return None
        if conn.parser is not None and conn.parser.unreader.buf.getvalue():
            return None  # the request begins in what gunicorn has read ahead
        try:
            data = _look(conn.sock)
            environ = self._environ(conn, data)
        except Exception:  # whatever is wrong with it, gunicorn tells the client
            return None
        if environ is None or not self._gate.claim():
            return None
        begun = time.perf_counter()
        self._lanes.answered += 1
        self._deadlines.begin(conn.sock)
        try:
            conn.init()
            conn.sock.recv(len(data), socket.MSG_DONTWAIT)
            status, headers, body = self._ask(environ)
            try:
                sent = _send(conn.sock, self._head(status, headers) + body)
            finally:
                seconds = time.perf_counter() - begun
                self._lines.append(access_log.answered(environ, status, headers, len(body), seconds))
        except OSError:
            return False
        except Exception as error:
            self._worker.handle_error(None, conn.sock, conn.client, error)
            return False
        finally:
            self._deadlines.end()
            self._gate.unclaim()
            self._pace.answered(time.perf_counter() - begun)
        return sent

    def send(self, conn: Any, rest: bytes) -> bool:
        """In a thread: sends what the client did not take at once. False: the connection is to be closed."""
        self._deadlines.begin(conn.sock, WRITING)
        try:
            conn.sock.setblocking(True)
            conn.sock.sendall(rest)
        except OSError:
            return False
        finally:
            self._deadlines.end()
        return True

    def _environ(self, conn: Any, data: bytes) -> dict[str, Any] | None:
        """What gunicorn would tell an application of the request that `data` is, whole; None: it is not such a one."""
        head, _, body = data.partition(b"\r\n\r\n")
        head += b"\r\n"
        length = _LENGTH.search(head)
        if length is None or int(length[1]) != len(body) or len(data) == LARGEST:
            return None
        told = (head[: length.start(1)], head[length.end(1) :], conn.client[0], conn.server[0])
        known = self._heads.get(told)
        if known is None:
            if group(plain_prediction(data)) not in ROADS:
                return None
            known = self._read(conn, data)
            if len(head) <= LONGEST and not _ONCE.search(head):
                if len(self._heads) >= HEADS:
                    self._heads.clear()
                self._heads[told] = known
        return {
            **known,
            "CONTENT_LENGTH": length[1].decode(),
            "REMOTE_PORT": str(conn.client[1]),
            "gunicorn.socket": conn.sock,
            "wsgi.input": io.BytesIO(body),
        }

    def _read(self, conn: Any, data: bytes) -> dict[str, Any]:
        """By gunicorn's own reader; raises what that raises."""
        request = next(RequestParser(self._cfg, iter([data]), conn.client))
        _, environ = wsgi.create(request, conn.sock, conn.client, conn.server, self._cfg)
        environ["wsgi.multithread"] = True
        environ.pop("wsgi.early_hints", None)  # it belongs to one connection
        del environ["gunicorn.socket"], environ["wsgi.input"]
        return dict(environ)

    def _ask(self, environ: dict[str, Any]) -> tuple[str, list[tuple[str, str]], bytes]:
        self._deputy.away()
        try:
            # Without a close: nothing but a list of bytes is answered to a prediction.
            body = b"".join(self._app(environ, self._start))
        finally:
            self._deputy.back()
        return self._status, self._headers, body

    def _start(self, status: str, headers: list[tuple[str, str]], *error: Any) -> None:
        self._status, self._headers = status, headers

    def _head(self, status: str, headers: list[tuple[str, str]]) -> bytes:
        """As gunicorn writes it. Raises ValueError for a header that would be several."""
        second = int(time.time())
        if second != self._second:
            self._second, self._date = second, str(util.http_date(second))
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
        if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
            raise ValueError("A header of the answer has a line break.")
        begins = f"HTTP/1.1 {status}\r\nServer: {SERVER}\r\nDate: {self._date}\r\nConnection: keep-alive\r\n"
        return f"{begins}{lines}\r\n".encode("latin-1")


def _look(sock: socket.socket) -> bytes:
    """What is there, LARGEST bytes at most, which stay there."""
    data = sock.recv(USUAL, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    return data if len(data) < USUAL else sock.recv(LARGEST, socket.MSG_PEEK | socket.MSG_DONTWAIT)


def _send(sock: socket.socket, answer: bytes) -> bytes | bool:
    """True: all is sent; else what is left."""
    try:
        sent = sock.send(answer, socket.MSG_DONTWAIT)
    except BlockingIOError:
        sent = 0
    return answer[sent:] or True
