"""gRPC's server reflection: which services are here, and the files that describe them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mpack_runtime.grpc import codec
from mpack_runtime.grpc.messages import FILES, HEALTH, INFERENCE, REFLECTION, message

SERVICES = (INFERENCE, HEALTH, *(f"{package}.ServerReflection" for package in REFLECTION))
_NOT_FOUND, _UNIMPLEMENTED = 5, 12


class Reflection:
    """One version of reflection, by its package."""

    def __init__(self, package: str) -> None:
        self._request = message(f"{package}.ServerReflectionRequest")
        self._response = message(f"{package}.ServerReflectionResponse")

    def answer(self, body: bytes) -> bytes:
        """The answer to one message of the stream. Raises BadRequest."""
        asked = codec.parse(self._request, body)
        answer = self._response(valid_host=asked.host, original_request=asked)
        kind = asked.WhichOneof("message_request")
        if kind == "list_services":
            for name in SERVICES:
                answer.list_services_response.service.add(name=name)
        elif kind in ("file_by_filename", "file_containing_symbol"):
            wanted = getattr(asked, kind)
            file = wanted if kind == "file_by_filename" else _SYMBOLS.get(wanted, "")
            if file in FILES:
                answer.file_descriptor_response.file_descriptor_proto.append(FILES[file].SerializeToString())
            else:
                _refuse(answer, _NOT_FOUND, f"There is no {wanted}.")
        elif kind == "all_extension_numbers_of_type" and asked.all_extension_numbers_of_type in _SYMBOLS:
            answer.all_extension_numbers_response.base_type_name = asked.all_extension_numbers_of_type
        else:
            known = kind in ("file_containing_extension", "all_extension_numbers_of_type")
            _refuse(
                answer, _NOT_FOUND if known else _UNIMPLEMENTED, "There are no extensions." if known else "Unknown."
            )
        told: bytes = answer.SerializeToString()
        return told


def _refuse(answer: Any, code: int, words: str) -> None:
    answer.error_response.error_code = code
    answer.error_response.error_message = words


def _names(item: Any, before: str) -> Iterator[str]:
    """The full names of a message or an enum and of all that is in it."""
    name = f"{before}.{item.name}"
    yield name
    parts = ("field", "nested_type", "enum_type", "oneof_decl") if hasattr(item, "nested_type") else ()
    for part in parts:
        for inner in getattr(item, part):
            yield from _names(inner, name)


def _symbols() -> dict[str, str]:
    found = {}
    for name, file in FILES.items():
        for item in file.message_type:
            found.update(dict.fromkeys(_names(item, file.package), name))
        for service in file.service:
            whole = f"{file.package}.{service.name}"
            found.update(dict.fromkeys([whole, *(f"{whole}.{method.name}" for method in service.method)], name))
    return found


#: Full name -> the file that it is in.
_SYMBOLS = _symbols()
