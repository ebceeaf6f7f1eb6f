"""A run as the document that its manifest was, with its status; and what may be kept of either."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mpack.address import public
from mpack.redaction import HIDDEN, redact
from mpack.results import Run

_SECRET_FIELDS = {"password", "keyid", "keysecret", "publickey", "token", "secret"}
_USER_OF_URL = re.compile(r"(?<=://)[^/\s@]+@")


def run_document(run: Run) -> dict[str, Any]:
    """kind, id, spec as the manifest has it, and status: state, results and what else is known."""
    facts = run.facts
    status = {
        "state": run.state,
        "results": facts.get("results", []),
        "message": facts.get("message", _words(run)),
        "exitCode": facts.get("exit_code"),
        "startedAt": run.started,
        "finishedAt": run.finished,
        "image": facts.get("image"),
        "digest": facts.get("digest"),
        "artifact": facts.get("artifact"),
        "planDigest": facts.get("plan"),
        "packager": facts.get("packager"),
        "arguments": facts.get("arguments", {}),
        "timings": facts.get("timings", {}),
    }
    return {"kind": "ModelPackaging", "id": run.packaging, "spec": run.document.get("spec", {}), "status": status}


def masked(value: Any, key: str = "") -> Any:
    """JSON without secrets: what was revealed, what a field of a secret's name holds, users and passwords of URLs,
    and what an address has behind its path."""
    if isinstance(value, Mapping):
        return {str(name): masked(item, str(name)) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [masked(item, key) for item in value]
    if isinstance(value, str):
        if value and key.lower() in _SECRET_FIELDS:
            return HIDDEN
        text = _USER_OF_URL.sub(f"{HIDDEN}@", redact(public(value)))
        # Names of files that are not UTF-8 cannot be written down as they are.
        return text.encode("utf-8", "backslashreplace").decode()
    return value


def _words(run: Run) -> str:
    return "Its process ended before it could say how it went." if run.state == "unknown" else ""
