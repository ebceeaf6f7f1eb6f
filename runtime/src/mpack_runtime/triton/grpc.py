"""Unary gRPC calls over one HTTP/2 connection (package h2), without TLS."""

from __future__ import annotations

import struct
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

from mpack_runtime.errors import ModelFailure
from mpack_runtime.triton.address import Address

SERVICE = "inference.GRPCInferenceService"
WINDOW = 1 << 24
_NAMES = {
    1: "CANCELLED", 2: "UNKNOWN", 3: "INVALID_ARGUMENT", 4: "DEADLINE_EXCEEDED", 5: "NOT_FOUND",
    8: "RESOURCE_EXHAUSTED", 9: "FAILED_PRECONDITION", 12: "UNIMPLEMENTED", 13: "INTERNAL", 14: "UNAVAILABLE",
}  # fmt: skip


class GrpcFailure(ModelFailure):
    """The server answered a status; `code` is its name, `detail` its message."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"The server answers {code} over gRPC: {detail}")
        self.code, self.detail = code, detail


class Connection:
    """One connection; `call` is not safe for several threads."""

    def __init__(self, address: Address, timeout: float = 60.0) -> None:
        self._socket = address.connect(timeout)
        self._address = address
        self._http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self._http.initiate_connection()
        self._http.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: WINDOW})
        self._http.increment_flow_control_window(WINDOW)
        self._flush()

    def close(self) -> None:
        """Ends the connection."""
        self._socket.close()

    def call(self, method: str, message: bytes) -> bytes:
        """The answer's message. Raises GrpcFailure for another status than OK, ModelFailure where nothing answers."""
        try:
            return self._call(method, message)
        except (OSError, h2.exceptions.H2Error) as error:
            raise ModelFailure(f"The server on {self._address} does not answer over gRPC: {error}.") from error

    def _call(self, method: str, message: bytes) -> bytes:
        stream = self._http.get_next_available_stream_id()
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", f"/{SERVICE}/{method}"),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ]
        self._http.send_headers(stream, headers)
        answer = _Answer()
        self._send(stream, struct.pack(">BI", 0, len(message)) + message, answer)
        while not answer.ended:
            self._receive(stream, answer)
        return answer.message()

    def _send(self, stream: int, data: bytes, answer: _Answer) -> None:
        view = memoryview(data)
        while view and not answer.ended:
            room = min(self._http.local_flow_control_window(stream), self._http.max_outbound_frame_size, len(view))
            if room <= 0:
                self._flush()
                self._receive(stream, answer)
                continue
            self._http.send_data(stream, bytes(view[:room]), end_stream=room == len(view))
            view = view[room:]
            self._flush()

    def _receive(self, stream: int, answer: _Answer) -> None:
        data = self._socket.recv(1 << 16)
        if not data:
            raise ConnectionError("the connection was closed")
        for event in self._http.receive_data(data):
            if isinstance(event, h2.events.ConnectionTerminated):
                raise ConnectionError(f"the server ended the connection ({event.error_code})")
            if getattr(event, "stream_id", stream) != stream:
                continue
            if isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
                answer.headers.update({str(name): str(value) for name, value in event.headers or ()})
            elif isinstance(event, h2.events.DataReceived):
                answer.data += event.data
                self._http.acknowledge_received_data(event.flow_controlled_length or 0, stream)
            elif isinstance(event, h2.events.StreamReset) and "grpc-status" in answer.headers:
                answer.ended = True  # it does not want the rest of the request
            elif isinstance(event, h2.events.StreamReset):
                raise ConnectionError(f"the server reset the call ({event.error_code})")
            elif isinstance(event, h2.events.StreamEnded):
                answer.ended = True
        self._flush()

    def _flush(self) -> None:
        self._socket.sendall(self._http.data_to_send())


class _Answer:
    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.data = bytearray()
        self.ended = False

    def message(self) -> bytes:
        status = self.headers.get("grpc-status", "")
        if status != "0":
            number = int(status) if status.isascii() and status.isdigit() else 2
            words = unquote(self.headers.get("grpc-message", "")) or f"HTTP status {self.headers.get(':status')}"
            raise GrpcFailure(_NAMES.get(number, f"status {number}"), words)
        if len(self.data) < 5 or self.data[0] != 0 or struct.unpack(">I", self.data[1:5])[0] != len(self.data) - 5:
            raise ModelFailure("The server's answer over gRPC is not one whole message.")
        return bytes(self.data[5:])
