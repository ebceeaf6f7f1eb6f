"""What arguments of docker-rest add to an image: it is there, with byte code, and works in a real container."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

pytestmark = [pytest.mark.docker, pytest.mark.integration]

CASE = Path(__file__).parents[2] / "fixtures" / "models" / "odahu-invoices"
EXTRAS = ("-a", "jwt=true", "-a", "tracing=true", "-a", "logStorage=s3")


def test_arguments_add_requirements(mpack: Any) -> None:
    """Each adds its own, and none is there without being asked for."""

    def names(*arguments: str) -> set[str]:
        spec = json.loads(mpack("plan", CASE / "invoices", "-p", "docker-rest", "--spec", *arguments).stdout)
        return {item["line"].partition(">")[0] for item in spec["requirements"]}

    plain = names()
    assert names("-a", "jwt=true") - plain == {"pyjwt", "cryptography"}
    assert names("-a", "logStorage=s3") - plain == {"fsspec", "s3fs"}
    assert names("-a", "logStorage=gs") - plain == {"fsspec", "gcsfs"}
    assert names("-a", "logStorage=abfs") - plain == {"fsspec", "adlfs"}
    assert names("-a", "tracing=true") - plain == {"opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http"}


@pytest.fixture
def image(mpack: Any, place: Path, remove_image: Callable[[str], None]) -> str:
    """The smallest fixture with all of them, verified."""
    name = "mpack-test-extras:1"
    remove_image(name)
    lock = ("--lock", place / "extras.lock")
    mpack("build", CASE / "invoices", "-p", "docker-rest", *EXTRAS, "-o", "docker", "-t", name, *lock)
    return name


@contextmanager
def collector() -> Iterator[tuple[str, list[str]]]:
    """Takes OTLP over HTTP, as no real collector is to be had; its address, and the names of the spans that came."""
    names: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
            scopes = (scope for one in sent.resource_spans for scope in one.scope_spans)
            names.extend(span.name for scope in scopes for span in scope.spans)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", names
    server.shutdown()
    server.server_close()


def test_an_image_with_all_of_them(image: str, engine: str, place: Path) -> None:
    """Signed tokens, traces, and logs in a store that is not there, on a read-only root without capabilities."""
    key = ec.generate_private_key(ec.SECP256R1())
    keys = place / "jwks.json"
    keys.write_text(json.dumps({"keys": [{**json.loads(ECAlgorithm.to_jwk(key.public_key())), "kid": "k"}]}))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with collector() as (url, names):
        settings = {
            "MPACK_HOST": "127.0.0.1",
            "MPACK_PORT": port,
            "MPACK_AUTH_JWKS": "/keys/jwks.json",
            "MPACK_AUTH_ISSUER": "me",
            "MPACK_AUTH_AUDIENCE": "invoices",
            "MPACK_LOG_DIR": "s3://nowhere/logs",
            "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        }
        options = [word for name, value in settings.items() for word in ("-e", f"{name}={value}")]
        hard = ["--read-only", "--cap-drop", "ALL", "--network", "host", "-v", f"{keys}:/keys/jwks.json:ro"]
        command = [engine, "run", "-d", *hard, *options, image]
        container = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client:
                wait_ready(client)
                token = jwt.encode(
                    {"iss": "me", "aud": "invoices", "exp": time.time() + 60}, key, "ES256", {"kid": "k"}
                )
                request = json.loads((CASE / "expect.json").read_text("utf-8"))["requests"][0]
                for headers, status in (({"Authorization": f"Bearer {token}"}, request["status"]), ({}, 401)):
                    answer = client.post("/api/model/invoke", json=request["body"], headers=headers)
                    assert answer.status_code == status, answer.text
            stopped = subprocess.run([engine, "stop", "-t", "30", container], capture_output=True)
            assert stopped.returncode == 0
        finally:
            subprocess.run([engine, "rm", "-f", container], capture_output=True, check=True)
    assert sorted(names) == ["POST /api/model/invoke", "POST /api/model/invoke", "decode", "encode", "predict"]


def wait_ready(client: httpx.Client) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            assert time.monotonic() < end
            time.sleep(0.05)
