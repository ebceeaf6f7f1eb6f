"""The page at `/`: name, interface, a sample to try. Rendered here, so it reads without JavaScript too."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from flask import render_template

from mpack_runtime.rest.schema import required, type_words
from mpack_runtime.signature import Field, Param, Signature

#: Nothing from elsewhere, nothing inline.
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'self'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def page(
    name: str, version: str, signature: Signature, example: Mapping[str, Any] | None, *, url: str, prefix: str
) -> str:
    """The page's HTML; `url` is the service's address as the client sees it, `prefix` the path in front of it."""
    tables = [("Inputs", _rows(signature.inputs)), ("Outputs", _rows(signature.outputs))]
    if signature.params:
        tables.append(("Parameters", [_param(param) for param in signature.params]))
    sample = compact(example) if example is not None else '{"data": [[]]}'
    return render_template(
        "page.html",
        name=name,
        version=version,
        tables=tables,
        sample=sample,
        curl=curl(url, json.dumps(example, ensure_ascii=False) if example is not None else sample),
        base=prefix,
    )


def curl(url: str, body: str) -> str:
    """A command that asks the service `body`, quoted for a POSIX shell."""
    address = shlex.quote(f"{url.rstrip('/')}/api/model/invoke")
    return f"curl {address} -H 'Content-Type: application/json' -d {shlex.quote(body)}"


def compact(value: Any, indent: str = "") -> str:
    """JSON over lines where it is nested, with arrays of plain values on one line each."""
    deeper = indent + "  "
    if isinstance(value, list) and any(isinstance(item, (list, dict)) for item in value):
        lines = ",\n".join(deeper + compact(item, deeper) for item in value)
        return f"[\n{lines}\n{indent}]"
    if isinstance(value, Mapping) and value:
        lines = ",\n".join(
            f"{deeper}{json.dumps(key, ensure_ascii=False)}: {compact(item, deeper)}" for key, item in value.items()
        )
        return f"{{\n{lines}\n{indent}}}"
    return json.dumps(value, ensure_ascii=False)


def _rows(fields: Sequence[Field]) -> list[dict[str, str]]:
    return [
        {"name": field.name or "", "type": type_words(field), "note": "" if required(field) else "may be missing"}
        for field in fields
    ]


def _param(param: Param) -> dict[str, str]:
    return {"name": param.name, "type": param.type, "note": f"default {json.dumps(param.default)}"}
