"""A registry that repeats in its errors what it was told in confidence; a fake, for no real one does so on command."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def echo_registry(token: str, *, stumble: bool) -> Iterator[str]:
    """Its "localhost:port". It exchanges any user and password for the token, has no blob, and answers an upload with
    what it knows: with all of it in a refusal, or with a Location that is no URL."""
    known: dict[str, str] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            login = self.headers.get("Authorization", "")
            if self.path.startswith("/token"):
                known.update(basic=login, plain=base64.b64decode(login.removeprefix("Basic ")).decode())
                self._answer(200, {"token": token})
            elif not login:
                realm = f'Bearer realm="http://{self.headers["Host"]}/token",service="echo"'
                self._answer(401, {}, {"WWW-Authenticate": realm})
            else:
                self._answer(200 if self.path == "/v2/" else 404, {})

        def do_POST(self) -> None:
            known["bearer"] = self.headers.get("Authorization", "")
            if stumble:
                self._answer(202, {}, {"Location": f"http://localhost:{known['bearer'].removeprefix('Bearer ')}/"})
            else:
                self._answer(400, {"errors": [{"code": "DENIED", "message": json.dumps(known)}]})

        def _answer(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, format: str, *arguments: object) -> None:
            return

    server = ThreadingHTTPServer(("localhost", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"localhost:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
