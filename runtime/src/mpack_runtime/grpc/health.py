"""gRPC's own health checking (grpc.health.v1): the server and its services serve until they stop."""

from __future__ import annotations

from mpack_runtime.errors import BadRequest
from mpack_runtime.grpc import codec
from mpack_runtime.grpc.messages import HEALTH, INFERENCE, message

_REQUEST, _RESPONSE = message("grpc.health.v1.HealthCheckRequest"), message("grpc.health.v1.HealthCheckResponse")
_SERVICES = ("", INFERENCE, HEALTH)


def check(body: bytes, ready: bool) -> bytes:
    """Check's answer. Raises BadRequest (404) for a service that is not here."""
    name = codec.parse(_REQUEST, body).service
    if name not in _SERVICES:
        raise BadRequest(f"There is no service {name}.", 404)
    return _answer("SERVING" if ready else "NOT_SERVING")


def watched(body: bytes, ready: bool) -> bytes:
    """One of Watch's answers, for which an unknown service is no error. Raises BadRequest."""
    known = codec.parse(_REQUEST, body).service in _SERVICES
    return _answer(("SERVING" if ready else "NOT_SERVING") if known else "SERVICE_UNKNOWN")


def _answer(status: str) -> bytes:
    answer: bytes = _RESPONSE(status=status).SerializeToString()
    return answer
