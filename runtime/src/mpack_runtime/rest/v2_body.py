"""Bodies of V2 requests and answers over HTTP: JSON, and the binary tensor extension in both directions.

A binary body is JSON, of as many bytes as the header Inference-Header-Content-Length says, and the raw tensors one
after another (row-major, little-endian; BYTES with a length of 32 bits before each), each of the size that the
parameter `binary_data_size` of its input or output says. An answer's output is raw if its own parameter
`binary_data`, else the request's `binary_data_output`, asks so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from mpack_runtime.errors import BadRequest
from mpack_runtime.render import plain
from mpack_runtime.v2.core import Request, check_output
from mpack_runtime.v2.raw import V2Tensor, from_bytes, to_bytes
from mpack_runtime.v2.values import check_datatype, check_shape, from_json
from mpack_runtime.wire_columns import describe, quote, sentence
from mpack_runtime.wire_json import parse

LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class Asked:
    """A request, its id, and for each output that is named whether it is wanted raw (None, or not named: `raw`)."""

    request: Request
    id: str | None
    raw: bool
    raw_by_name: Mapping[str, bool | None]


def read(body: bytes, length: str) -> Asked:
    """A request's body; `length` is the header's value, "" if there is none. Raises BadRequest."""
    head, rest = _split(body, length)
    value = parse(head)
    if type(value) is not dict:
        raise BadRequest(f"The request is {describe(value)}; it must be a JSON object with inputs.")
    if "inputs" not in value:
        raise BadRequest("The request has no inputs.")
    given = value.get("id")
    if given is not None and type(given) is not str:
        raise BadRequest(f"The request's id is {describe(given)}; it must be a string.")
    parameters = _parameters(value, "the request")
    take = _Rest(rest)
    items = [_named(item, "input") for item in _list(value, "inputs")]
    tensors = tuple(_tensor(item, take) for item in items)
    take.done()
    content_types = {item["name"]: (item.get("parameters") or {}).get("content_type") for item in items}
    wanted = [_named(item, "output") for item in _list(value, "outputs")]
    raw_by_name = {item["name"]: _wants_raw(item) for item in wanted}
    request = Request(tensors, tuple(item["name"] for item in wanted), parameters, content_types)
    return Asked(request, given, _flag(parameters, "binary_data_output", "the request") or False, raw_by_name)


def write(name: str, version: str, asked: Asked, tensors: Sequence[V2Tensor]) -> tuple[bytes, int | None]:
    """The answer's body, and how many bytes of it are JSON (None: all). Raises BadRequest."""
    head: dict[str, Any] = {"model_name": name, "model_version": version}
    if asked.id is not None:
        head["id"] = asked.id
    items, parts = [], []
    for tensor in tensors:
        wish = asked.raw_by_name.get(tensor.name)
        raw = asked.raw if wish is None else wish
        item: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if raw:
            parts.append(to_bytes(tensor))
            items.append({**item, "parameters": {"binary_data_size": len(parts[-1])}})
        else:
            items.append({**item, "data": _values(tensor)})
    text = orjson.dumps({**head, "outputs": items}, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join([text, *parts]), len(text)) if parts else (text, None)


def _split(body: bytes, length: str) -> tuple[str, memoryview]:
    """The JSON text and what follows it, which is not copied."""
    if length and not (length.isascii() and length.isdigit() and int(length) <= len(body)):
        raise BadRequest(f"{LENGTH} is {quote(length)}; the body has {len(body)} bytes.")
    end = int(length) if length else len(body)
    try:
        text = body[:end].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRequest(f"The request's JSON is not UTF-8: {error}.") from error
    if not text.strip():
        raise BadRequest('The request\'s body is empty; send {"inputs": [{"name", "shape", "datatype", "data"}]}.')
    return text, memoryview(body)[end:]


class _Rest:
    """What follows the JSON, taken tensor by tensor."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._start = data, 0

    def take(self, size: Any, what: str) -> memoryview:
        left = len(self._data) - self._start
        if type(size) is not int or not 0 <= size <= left:
            shown = size if type(size) is int else describe(size)
            raise BadRequest(f"The binary_data_size of {what} is {shown}; {left} bytes are left after the JSON.")
        self._start += size
        return self._data[self._start - size : self._start]

    def done(self) -> None:
        left = len(self._data) - self._start
        if left:
            raise BadRequest(f"{left} bytes follow the JSON that no input's binary_data_size asks for.")


def _list(value: Mapping[str, Any], side: str) -> list[Any]:
    items = value.get(side)
    if items is None and side == "outputs":
        return []
    if type(items) is not list:
        raise BadRequest(f"The request's {side} are {describe(items)}; they must be a list.")
    return items


def _named(item: Any, what: str) -> dict[str, Any]:
    """An input or output, which has a name and perhaps parameters."""
    if type(item) is not dict:
        raise BadRequest(f"An {what} is {describe(item)}; it must be an object with a name.")
    if type(item.get("name")) is not str:
        raise BadRequest(f"An {what} has the name {describe(item.get('name'))}; it must be a string.")
    _parameters(item, f"{what} {quote(item['name'])}")
    return item


def _parameters(value: Mapping[str, Any], what: str) -> dict[str, Any]:
    found = value.get("parameters")
    if found is not None and type(found) is not dict:
        raise BadRequest(f"The parameters of {what} are {describe(found)}; they must be an object.")
    return found or {}


def _flag(parameters: Mapping[str, Any], name: str, what: str) -> bool | None:
    found = parameters.get(name)
    if found is not None and type(found) is not bool:
        raise BadRequest(f"The {name} of {what} is {describe(found)}; it must be true or false.")
    return found


def _wants_raw(item: Mapping[str, Any]) -> bool | None:
    what, parameters = f"output {quote(item['name'])}", item.get("parameters") or {}
    check_output(parameters, what)
    return _flag(parameters, "binary_data", what)


def _tensor(item: Mapping[str, Any], rest: _Rest) -> V2Tensor:
    """One input, from the JSON or from what follows it."""
    name, datatype = item["name"], item.get("datatype")
    what = f"input {quote(name)}"
    if type(datatype) is not str:
        raise BadRequest(f"{sentence(what)} has the datatype {describe(datatype)}; it must be a string.")
    check_datatype(datatype, what)
    shape = check_shape(item.get("shape"), what)
    size = (item.get("parameters") or {}).get("binary_data_size")
    if (size is None) == (item.get("data") is None):
        raise BadRequest(f"{sentence(what)} must have either data or the parameter binary_data_size.")
    if size is None:
        return V2Tensor(name, datatype, from_json(item["data"], datatype, shape, what))
    return V2Tensor(name, datatype, from_bytes(rest.take(size, what), datatype, shape, what))


def _values(tensor: V2Tensor) -> Any:
    """JSON's values, flat: NaN and infinities are null, text is a string."""
    flat = tensor.array.reshape(-1)
    if tensor.datatype == "BYTES":
        return [None if item is None else item.decode() for item in flat.tolist()]
    return plain(flat)
