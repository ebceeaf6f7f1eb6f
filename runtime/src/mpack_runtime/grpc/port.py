"""The master's hold on gRPC's port, so that workers, old and new, share it with nobody else. Imports no grpc."""

from __future__ import annotations

import socket

from mpack_runtime import extras
from mpack_runtime.config import GrpcSettings
from mpack_runtime.errors import RuntimeFault, SettingsError


def reserve(host: str, settings: GrpcSettings) -> socket.socket:
    """A socket that is bound but never listens; workers' sockets join it by SO_REUSEPORT.

    Raises SettingsError where the image has no gRPC, RuntimeFault where the port is taken.
    """
    if not (extras.has("grpc") and extras.has("google.protobuf")):
        raise SettingsError(
            "MPACK_GRPC_PORT is set, but this image has no gRPC; it is added by the packager's argument grpc=true."
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    address = (host, settings.port)
    try:
        # Without SO_REUSEPORT first: with it, another service that has it too would share the port.
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
        held = socket.socket(family, socket.SOCK_STREAM)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(address)
    except OSError as error:
        reason = error.strerror or error
        raise RuntimeFault(f"gRPC cannot listen on {host}:{settings.port} (MPACK_GRPC_PORT): {reason}.") from error
    return held
