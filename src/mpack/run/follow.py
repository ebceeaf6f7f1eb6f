"""Waiting for what runs: says when it is ready, ends it when this program is to end."""

from __future__ import annotations

import http.client
import signal
import subprocess
from collections.abc import Callable

from mpack.run import Started
from mpack.run.ports import LOOPBACK

#: Where servers tell that they are ready: mpack's REST server, and Triton.
READY = ("/readyz", "/v2/health/ready")
#: Seconds that a container gets to end after SIGTERM; the seconds between two questions whether it is ready.
GRACE = 10.0
_EVERY = 0.05


def follow(started: Started, port: int | None, on_ready: Callable[[], None], grace: float = GRACE) -> int:
    """The exit code of what runs. `on_ready` is called once, when HTTP on this machine's `port` says that it is ready.

    An exception (Ctrl-C, SIGTERM) ends it in order, a second one at once; nothing of it runs afterwards.
    Raises the EnvironmentFault of a container that could not be started.
    """
    process = started.process
    waiting = port is not None
    try:
        while True:
            try:
                code = process.wait(_EVERY if waiting else None)
            except subprocess.TimeoutExpired:
                if port is not None and is_ready(port):
                    waiting = False
                    on_ready()
                continue
            fault = started.fault() if code != 0 else None
            if fault is not None:
                raise fault
            return code if code >= 0 else 128 - code
    except BaseException:
        try:
            process.terminate()
            process.wait(grace)
        except subprocess.TimeoutExpired:
            pass
        raise
    finally:
        # From here on nothing is left to interrupt: this program ends as soon as the container has.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        started.kill()


def is_ready(port: int) -> bool:
    """True if a server there says so, or speaks HTTP (or anything else) and knows none of the paths of `READY`."""
    for path in READY:
        connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
        try:
            connection.request("GET", path)
            status = connection.getresponse().status
        except OSError:
            return False
        except http.client.HTTPException:
            return True
        finally:
            connection.close()
        if status != http.HTTPStatus.NOT_FOUND:
            return status == http.HTTPStatus.OK
    return True
