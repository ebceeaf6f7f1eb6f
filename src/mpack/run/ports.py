"""Which ports an image serves on, and which of this machine's stand for them."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from mpack.errors import EnvironmentFault

LOOPBACK = "127.0.0.1"
#: The settings of mpack's runtime for its ports; other ports of an image are flags of its command.
HTTP, GRPC = "MPACK_PORT", "MPACK_GRPC_PORT"
_FLAG = re.compile(r"(--[a-z-]*port=)([0-9]{1,5})")
_MOST_PORT = 65_535


def container_ports(config: Mapping[str, Any], env: Mapping[str, str]) -> tuple[int, ...]:
    """The TCP ports that an image listens on, HTTP's first. `env` wins over that of its `config` object."""
    exposed = [key.partition("/") for key in config.get("ExposedPorts") or {}]
    ports = {port for text, _, kind in exposed if kind in ("", "tcp") and (port := number(text, _MOST_PORT))}
    built = _settings(config)
    http = number(env.get(HTTP) or built.get(HTTP, ""), _MOST_PORT)
    if not ports or not http:
        return tuple(sorted(ports))
    moved = {number(built.get(name, ""), _MOST_PORT) for name in (HTTP, GRPC)}
    grpc = number(env.get(GRPC, built.get(GRPC, "")), _MOST_PORT)
    return (http, *sorted((ports - moved | ({grpc} if grpc else set())) - {http}))


def number(text: str, most: int) -> int | None:
    """A decimal number from 0 to `most`; None for any other text, as an image may have anything there."""
    found = int(text) if re.fullmatch("[0-9]{1,10}", text) else None
    return found if found is not None and found <= most else None


def host_ports(ports: Sequence[int], wanted: int | None) -> dict[int, int]:
    """Container's port -> this machine's: the same ones; with `wanted` that for the first; with 0 free ones for all.

    Raises EnvironmentFault port-taken.
    """
    chosen: dict[int, int] = {}
    for number, port in enumerate(ports):
        if wanted == 0:
            chosen[port] = _free()
        else:
            chosen[port] = wanted if wanted is not None and number == 0 else port
            _require_free(chosen[port])
    return chosen


def on_the_host(command: Sequence[str], ports: Mapping[int, int]) -> list[str]:
    """A command whose port flags are this machine's, for a container that shares its network."""

    def changed(match: re.Match[str]) -> str:
        return match[1] + str(ports.get(int(match[2]), int(match[2])))

    return [_FLAG.sub(changed, word) if _FLAG.fullmatch(word) else word for word in command]


def host_network_env(config: Mapping[str, Any], ports: Mapping[int, int]) -> dict[str, str]:
    """Settings of mpack's runtime for a container that shares this machine's network: loopback only."""
    http = next(iter(ports.values()), None)
    if http is None:
        return {}
    grpc = ports.get(number(_settings(config).get(GRPC, ""), _MOST_PORT) or 0)
    return {"MPACK_HOST": LOOPBACK, HTTP: str(http), **({GRPC: str(grpc)} if grpc else {})}


def _settings(config: Mapping[str, Any]) -> dict[str, str]:
    return dict(item.partition("=")[::2] for item in config.get("Env") or ())


def _free() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise EnvironmentFault(
                "port-taken",
                f"The model cannot be served on port {port} of this machine: {error.strerror}.",
                "Give another one by --port, or --port 0 for a free one.",
            ) from error
