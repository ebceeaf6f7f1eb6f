"""config.pbtxt to ModelConfig and back: the text only. What the values mean is checked by `check`."""

from __future__ import annotations

import difflib
import re

from mpack.errors import InputError

from .schema import Message, new_config, pb2, text_format

MAX_BYTES = 1 << 20


def parse(text: str | bytes, path: str) -> Message:
    """The ModelConfig of a config.pbtxt. `path` is for messages alone.

    Raises InputError: artifact-too-large above 1 MB, artifact-invalid with path:line:column for all that is not text
    of Triton's schema; EnvironmentFault tool-missing without tritonclient.
    """
    plain = decode(text, path)
    config = new_config()
    module = text_format()
    try:
        module.Parse(plain, config)
    except module.ParseError as error:
        raise _syntax_error(error, plain, path) from None
    return config


def decode(text: str | bytes, path: str) -> str:
    """The file's text: at most 1 MB of UTF-8 without null bytes (a byte order mark is refused: Triton refuses it)."""
    data = text.encode() if isinstance(text, str) else text
    if len(data) > MAX_BYTES:
        reason = f"{path} is {len(data)} bytes; a config.pbtxt may have {MAX_BYTES}."
        raise InputError("artifact-too-large", reason, "Put large data into files of the model's directory.")
    try:
        plain = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _fault(f"{path}:{line}: byte {error.start} is not UTF-8.", "Save the file as UTF-8.") from None
    for char, what in (("\0", "a null byte"), ("\ufeff", "a byte order mark")):
        if char in plain:
            line = plain.count("\n", 0, plain.index(char)) + 1
            raise _fault(f"{path}:{line}: the text holds {what}.", "Save the file as plain UTF-8 text.")
    return plain


def write(config: Message) -> str:
    """The text of a ModelConfig: fields in the schema's order, maps sorted by key, so equal values give equal bytes."""
    text = text_format().MessageToString(config, as_utf8=True, use_short_repeated_primitives=True)
    return re.sub(r"\{\n *\}", "{}", text)


def _syntax_error(error: Exception, text: str, path: str) -> InputError:
    where = (getattr(error, "GetLine", int)(), getattr(error, "GetColumn", int)())
    reason = re.sub(r"^\d+:\d+ : ", "", str(error))
    line = text.splitlines()[where[0] - 1] if 0 < where[0] <= text.count("\n") + 1 and text else ""
    reason = reason.removeprefix(f"'{line}': ")
    if len(reason) > 300:
        reason = f"{reason[:200]} … {reason[-80:]}"
    place = f"{path}:{where[0]}:{where[1]}" if where[0] else path
    return _fault(f"{place}: {reason.rstrip('.')}.", _advice(reason) or "Correct config.pbtxt.")


def _advice(reason: str) -> str:
    field = re.search(r'Message type "inference\.([\w.]+)" has no field named "([^"]*)"', reason)
    value = re.search(r'Enum type "inference\.([\w.]+)" has no value named (\w*)', reason)
    if field:
        owner, wrong = field.groups()
        known = [item.name for item in _find(owner, "messages").fields]
    elif value:
        owner, wrong = value.groups()
        known = [item.name for item in _find(owner, "enums").values]
    else:
        return ""
    near = difflib.get_close_matches(wrong, known, 1, 0.6) or [
        name for name in known if name.replace("_", "") == wrong.replace("_", "").lower()
    ]
    return f"Did you mean {near[0]}?" if near else f"{owner} has: {', '.join(sorted(known))}."


def _find(name: str, kind: str) -> Message:
    pool = pb2().DESCRIPTOR.pool
    find = pool.FindMessageTypeByName if kind == "messages" else pool.FindEnumTypeByName
    return find(f"inference.{name}")


def _fault(message: str, hint: str) -> InputError:
    return InputError("artifact-invalid", message, hint)
