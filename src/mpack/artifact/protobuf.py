"""Protocol Buffers' wire format, streaming: fields of one message, with large values skipped and not read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class ProtobufError(ValueError):
    """The bytes are no message."""


class ProtobufTruncated(ProtobufError):
    """The bytes end before the message does."""


class Budget:
    """How many fields may be looked at, in all messages of one reading together."""

    def __init__(self, fields: int) -> None:
        self._left = fields

    def take(self) -> None:
        """Counts one field. Raises ProtobufError when there were too many."""
        self._left -= 1
        if self._left < 0:
            raise ProtobufError("it has more fields than such a file ever has")


class Message:
    """The bytes of `stream` from `start` to `end`: iterate over `fields`, read what is wanted.

    A `budget` counts this message's fields, and those of the messages in it.
    """

    def __init__(self, stream: BinaryIO, start: int, end: int, budget: Budget | None = None) -> None:
        self.stream = stream
        self.start = start
        self.end = end
        self.budget = budget

    def fields(self) -> Iterator[tuple[int, int, int | Message]]:
        """(field number, wire type, value): an int, or for BYTES a Message over the bytes."""
        position = self.start
        while position < self.end:
            if self.budget is not None:
                self.budget.take()
            self.stream.seek(position)
            tag = self._varint()
            number, kind = tag >> 3, tag & 7
            if number == 0:
                raise ProtobufError("a field has the number 0")
            if kind == VARINT:
                value: int | Message = self._varint()
                position = self.stream.tell()
            elif kind in (FIXED64, FIXED32):
                value, position = 0, self.stream.tell() + (8 if kind == FIXED64 else 4)
            elif kind == BYTES:
                size = self._varint()
                start = self.stream.tell()
                position = start + size
                value = Message(self.stream, start, position, self.budget)
            else:
                raise ProtobufError(f"a field has the wire type {kind}")
            if position > self.end:
                raise ProtobufTruncated("a field is longer than what holds it")
            yield number, kind, value

    def data(self, limit: int = 1 << 20) -> bytes:
        """The bytes themselves. Raises ProtobufError above `limit`."""
        if self.end - self.start > limit:
            raise ProtobufError(f"a value has more than {limit} bytes")
        self.stream.seek(self.start)
        return self.stream.read(self.end - self.start)

    def text(self) -> str:
        try:
            return self.data().decode()
        except UnicodeDecodeError:
            raise ProtobufError("a text is not UTF-8") from None

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self.stream.read(1)
            if not byte:
                raise ProtobufTruncated("it ends inside a number")
            value |= (byte[0] & 0x7F) << shift
            if byte[0] < 0x80:
                return value
        raise ProtobufError("a number does not end")
