"""An Arrow IPC stream as a table that may be trusted: whoever sent it may have made it to break the reader.

The messages' own headers are read first, for what pyarrow would do without asking: unpack compressed buffers of any
size, turn numbers of the other byte order around, believe in rows that take no bytes. Types are checked before a batch
is read, and each batch is validated in full before anything looks into it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from mpack_runtime.errors import BadRequest
from mpack_runtime.wire_columns import quote

#: Where a table of a message's header has its fields (Arrow's Message.fbs and Schema.fbs).
_HEADER, _DATA, _ENDIANNESS, _LENGTH, _COMPRESSION = 2, 1, 0, 0, 3
_SCALARS = (
    *(pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating),
    *(pa.types.is_string, pa.types.is_large_string),
)
_BYTES = ("binary", "large_binary", "fixed_size_binary")
_LISTS = ("list", "large_list", "fixed_size_list")
#: Digits behind a decimal's point; none has more in all.
_DIGITS = 76


def read(body: bytes) -> pa.Table:
    """The table that a stream holds, validated, of at least one row. Raises BadRequest."""
    try:
        return _read(pa.py_buffer(body))
    except BadRequest:
        raise
    except Exception as error:  # pyarrow has a dozen kinds, NotImplementedError and OSError among them
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadRequest(f"Can not parse input as an Arrow stream: {reason.rstrip('.')}.") from error


def _read(buffer: pa.Buffer) -> pa.Table:
    rows = sum(_rows(message) for message in _messages(buffer))
    options = pa.ipc.IpcReadOptions(use_threads=False)
    reader = pa.ipc.open_stream(pa.BufferReader(buffer), options=options)
    check_types(reader.schema)
    cells, empty = rows * len(reader.schema), sum(pa.types.is_null(field.type) for field in reader.schema)
    if cells > 8 * buffer.size or rows * empty > buffer.size:
        raise BadRequest(f"The Arrow stream says that it has {rows} rows, which its {buffer.size} bytes cannot hold.")
    if not rows:
        raise BadRequest("The Arrow stream has no row.")
    batches = []
    for batch in reader:
        batch.validate(full=True)
        batches.append(batch)
    table = pa.Table.from_batches(batches, reader.schema)
    return table if len(batches) == 1 else table.combine_chunks()


def check_types(schema: pa.Schema) -> None:
    """Raises BadRequest for a column of a type that no model's input is made of."""
    for field in schema:
        _check(field, field.type, quote(field.name))


def _check(field: pa.Field, kind: Any, name: str) -> None:
    if _extension(field):
        raise BadRequest(f"Column {name} is of the extension type {quote(_extension(field))}; send its plain values.")
    inner = kind
    if pa.types.is_dictionary(kind):
        inner = kind.value_type
    elif _name(kind) in _LISTS:
        child = kind.value_field
        if _name(child.type) in _LISTS or _is_scalar(child.type):
            return _check(child, child.type, name)
        inner = None
    if inner is None or not (_is_plain(inner) or (inner is kind and pa.types.is_null(kind))):
        raise BadRequest(f"Column {name} is of the Arrow type {str(kind)[:200]}, which no model takes.")
    return None


def _extension(field: pa.Field) -> str:
    """The name of a field's extension type, known to pyarrow or not; "" for a plain one."""
    if isinstance(field.type, pa.BaseExtensionType):
        return str(field.type.extension_name)
    name: bytes = (field.metadata or {}).get(b"ARROW:extension:name", b"")
    return name.decode(errors="replace")


def _is_plain(kind: Any) -> bool:
    if pa.types.is_decimal(kind):
        return bool(0 <= kind.scale <= _DIGITS)
    return _is_scalar(kind) or pa.types.is_timestamp(kind) or pa.types.is_date(kind) or _name(kind) in _BYTES


def _is_scalar(kind: Any) -> bool:
    """What a tensor may hold."""
    return any(is_kind(kind) for is_kind in _SCALARS)


def _name(kind: Any) -> str:
    """The type's name without its parameters."""
    return str(kind).partition("[")[0].partition("<")[0]


def _messages(buffer: pa.Buffer) -> Iterator[pa.Message]:
    source = pa.BufferReader(buffer)
    yield from pa.ipc.MessageReader.open_stream(source)
    if source.tell() < buffer.size:
        left = buffer.size - source.tell()
        raise BadRequest(f"{left} bytes follow the end of the Arrow stream; one stream is one request.")


def _rows(message: pa.Message) -> int:
    """A record batch's rows, of other messages 0. Raises BadRequest for what is not read, struct.error for damage."""
    header = _Table.root(message.metadata.to_pybytes()).table(_HEADER)
    if message.type == "schema":
        if header is not None and header.number(_ENDIANNESS, "<h") != 0:
            raise BadRequest("The Arrow stream is big-endian; send it little-endian.")
        return 0
    batch = header.table(_DATA) if header is not None and message.type == "dictionary" else header
    if batch is None:
        raise struct.error("a message has no header")
    if batch.has(_COMPRESSION):
        raise BadRequest("The Arrow stream's buffers are compressed; send them plain, and gzip the body if need be.")
    length = batch.number(_LENGTH, "<q")
    dictionary = message.type == "dictionary"
    if length < 0 or (dictionary and length > 8 * message.body.size):
        raise BadRequest(f"A message of the Arrow stream says that it has {length} rows, which it cannot hold.")
    return 0 if dictionary else length


class _Table:
    """A table of a FlatBuffer. Every offset is looked up in bounds, or is struct.error."""

    def __init__(self, data: bytes, start: int) -> None:
        self._data, self._start = data, start
        self._fields = start - self._at("<i", start)
        self._size = self._at("<H", self._fields)

    @classmethod
    def root(cls, data: bytes) -> _Table:
        return cls(data, struct.unpack_from("<I", data)[0])

    def _at(self, form: str, where: int) -> int:
        if where < 0:
            raise struct.error("an offset points before the message")
        return int(struct.unpack_from(form, self._data, where)[0])

    def _offset(self, field: int) -> int:
        place = 4 + 2 * field
        return self._at("<H", self._fields + place) if place + 2 <= self._size else 0

    def has(self, field: int) -> bool:
        return self._offset(field) != 0

    def number(self, field: int, form: str) -> int:
        """A scalar field; 0 where it is left out, which is its default."""
        offset = self._offset(field)
        return self._at(form, self._start + offset) if offset else 0

    def table(self, field: int) -> _Table | None:
        """A table field, or None where it is left out."""
        offset = self._offset(field)
        if not offset:
            return None
        place = self._start + offset
        return _Table(self._data, place + self._at("<I", place))
