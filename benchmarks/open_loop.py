"""Load at a given rate, whether answers come or not (open loop), and load of so many that ask again at once (closed).

h2load's `--rps` lets all of its connections ask in the same moment, which is another load.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from dataclasses import dataclass, field

_LENGTH = re.compile(rb"\r\nContent-Length: (\d+)", re.IGNORECASE)


@dataclass
class Answers:
    """Status, time (ms) and moment (time.perf_counter) of each answer; status 0: the connection was cut off."""

    answers: list[tuple[int, float, float]] = field(default_factory=list)

    def times(self, status: int) -> list[float]:
        """Of the answers of one status."""
        return [took for found, took, _ in self.answers if found == status]

    def until(self, status: int, end: float) -> int:
        """How many answers of one status came before `end`: what comes of a queue afterwards is no throughput."""
        return sum(1 for found, _, when in self.answers if found == status and when <= end)


async def open_loop(port: int, request: bytes, rate: float, seconds: float) -> Answers:
    """Requests at random moments (Poisson), `rate` a second on average, each on a connection that is free or new."""
    found, free, tasks = Answers(), list[_Connection](), set[asyncio.Task[None]]()
    due = begun = time.perf_counter()
    while due < begun + seconds:
        pause = due - time.perf_counter()
        if pause > 0:
            await asyncio.sleep(pause)
        task = asyncio.create_task(_one(port, request, due, found, free))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        due += random.expovariate(rate)
    await asyncio.gather(*tasks)
    for connection in free:
        connection.close()
    return found


async def closed_loop(port: int, request: bytes, connections: int, seconds: float) -> float:
    """Answers of 200 a second, with so many connections that each ask one request after the other."""
    found, end = Answers(), time.perf_counter() + seconds

    async def client() -> None:
        free: list[_Connection] = []
        while (now := time.perf_counter()) < end:
            await _one(port, request, now, found, free)
        for connection in free:
            connection.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    return found.until(200, end) / seconds


async def _one(port: int, request: bytes, due: float, found: Answers, free: list[_Connection]) -> None:
    kept = free.pop() if free else None
    connection = kept or await _connect(port)
    status = await connection.ask(request) if connection else 0
    if kept and not status:  # the server had closed it meanwhile, as it may: every client asks again then
        connection = await _connect(port)
        status = await connection.ask(request) if connection else 0
    now = time.perf_counter()
    found.answers.append((status, (now - due) * 1e3, now))
    if connection and status and not connection.closed:
        free.append(connection)


async def _connect(port: int) -> _Connection | None:
    try:
        made = await asyncio.get_running_loop().create_connection(_Connection, "127.0.0.1", port)
    except OSError:
        return None
    return made[1]


class _Connection(asyncio.Protocol):
    """One connection, and the status of the answer that it waits for."""

    def __init__(self) -> None:
        self.closed = False
        self._transport: asyncio.WriteTransport | None = None
        self._received = b""
        self._answer: asyncio.Future[int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if end and length and len(body) >= int(length[1]):
            self.closed = b"\r\nconnection: close" in head.lower()
            self._done(int(head[9:12]))

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self._done(0)

    async def ask(self, request: bytes) -> int:
        """The answer's status; 0: cut off."""
        if self.closed or self._transport is None:
            return 0
        self._received, self._answer = b"", asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Ends it."""
        if self._transport is not None:
            self._transport.close()

    def _done(self, status: int) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(status)
