"""What an address says behind its question mark: `method`, one of the model's. All else is left alone."""

from __future__ import annotations

from urllib.parse import parse_qsl

from mpack_runtime.errors import BadRequest
from mpack_runtime.frame import Inputs
from mpack_runtime.service import Service


def asking(service: Service, inputs: Inputs, query: str) -> Inputs:
    """The inputs for the method that an address asks for. Raises BadRequest."""
    method = method_in(query)
    return service.asking(inputs, method) if method else inputs


def method_in(query: str) -> str:
    """The method that is asked for, "" where none is. Raises BadRequest for more than one."""
    found = [value for name, value in parse_qsl(query, keep_blank_values=True) if name == "method"]
    if len(found) > 1:
        raise BadRequest(f"The address names {len(found)} methods; one is asked for at a time.")
    if found == [""]:
        raise BadRequest("The address names an empty method; leave it out for the model's own.")
    return found[0] if found else ""
