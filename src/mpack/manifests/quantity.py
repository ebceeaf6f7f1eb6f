"""Kubernetes' quantities: "100m", "1.5", "512Mi", "1G", "1e3"."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from mpack.manifests.fields import Field, Report
from mpack.manifests.model import Resources

PATTERN = r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)|[eE]([+-]?[0-9]{1,3}))?"
_QUANTITY = re.compile(PATTERN)
_POWERS = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {f"{letter}i": 1 << (10 * power) for power, letter in enumerate("KMGTPE", 1)}
#: What Kubernetes counts to.
_LARGEST = (1 << 63) - 1
_SAYS = "a quantity such as {}"
_CPU = Field(
    "cpu", "quantity", 'Processors: 1, "1.5", "500m".', pattern=PATTERN, says=_SAYS.format('1, "1.5" or "500m"')
)
_MEMORY = Field(
    "memory", "quantity", 'Bytes: "512Mi", "1G", "1e9".', pattern=PATTERN, says=_SAYS.format('"512Mi" or "1G"')
)
_GPU = Field("gpu", "quantity", "Kept; not used here.", pattern=PATTERN, says=_SAYS.format("1"), used=False)
_BOUNDS = (_CPU, _MEMORY, _GPU)

FIELDS = (
    Field("limits", "object", "What the build and the self-check may take at most.", fields=_BOUNDS),
    Field("requests", "object", "What there should be; not more than the limits.", fields=_BOUNDS),
)


def parse_quantity(text: str) -> Decimal:
    """The number. Raises ValueError."""
    found = _QUANTITY.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a quantity")
    number, suffix, exponent = found.groups()
    if len(number) > 40:
        raise ValueError(f"{number[:40]}… has too many digits")
    value = Decimal(number)
    if suffix in _BINARY:
        value *= _BINARY[suffix]
    elif suffix or exponent:
        value = value.scaleb(_POWERS[suffix] if suffix else int(exponent))
    if value > _LARGEST:
        raise ValueError(f"{text} is more than Kubernetes counts to")
    return value


def read_resources(found: dict[str, Any], path: str, report: Report) -> Resources:
    """Bounds out of `spec.resources`; what is wrong is reported."""
    values: dict[tuple[str, str], Decimal] = {}
    for part in ("limits", "requests"):
        for name in ("cpu", "memory", "gpu"):
            text = found.get(part, {}).get(name)
            place = f"{path}.{part}.{name}"
            if not text:
                continue
            try:
                value = parse_quantity(text)
            except ValueError as error:
                report.add(place, f"{error}")
                continue
            reason = _unlikely(name, part, text, value)
            if reason:
                report.add(place, reason)
            values[part, name] = value
    for name in ("cpu", "memory"):
        limit, request = values.get(("limits", name)), values.get(("requests", name))
        if limit is not None and request is not None and request > limit:
            said = found["requests"][name], found["limits"][name]
            report.add(f"{path}.requests.{name}", f"{said[0]} is more than the limit, {said[1]}")
    return Resources(
        cpu_limit=_number(values.get(("limits", "cpu"))),
        cpu_request=_number(values.get(("requests", "cpu"))),
        memory_limit=_bytes(values.get(("limits", "memory"))),
        memory_request=_bytes(values.get(("requests", "memory"))),
    )


def _unlikely(name: str, part: str, text: str, value: Decimal) -> str:
    if part == "limits" and value == 0 and name != "gpu":
        return "a limit of 0 lets nothing run"
    if name == "memory" and text[-1] in "num" and value != value.to_integral_value():
        return f"{text} is {value.normalize():f} bytes: write {text[:-1]}M or {text[:-1]}Mi"
    return ""


def _number(value: Decimal | None) -> float | None:
    return None if value is None else float(value)


def _bytes(value: Decimal | None) -> int | None:
    return None if value is None else int(value.to_integral_value(rounding="ROUND_CEILING"))
