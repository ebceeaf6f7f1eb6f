"""The lines in which `mpack diff` tells a person what differs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any

from mpack.cli.images import size

if TYPE_CHECKING:
    from mpack.diff import ImageDiff, LayerDiff, PackageChange, Side
    from mpack.diff.fields import FieldChange
    from mpack.diff.items import Item

#: Lines of packages, of fields, and of files in all layers together; at least so many of each layer's files.
_LINES, _FILES, _LEAST = 10, 20, 3
_WIDTH = 48
_STATUS = {"only-a": "only in A", "only-b": "only in B"}


def text(found: ImageDiff, everything: bool) -> list[str]:
    """What differs, the verdict first; `everything` neither leaves out nor cuts."""
    if found.same:
        by_id = "" if found.a.digest and found.b.digest else ", by image id: one of them has no manifest"
        return [f"same ({found.b.digest or found.b.image.id}{by_id})"]
    lines = [f"different: {_verdict(found)}", _side("A", found.a), _side("B", found.b)]
    limit = None if everything else _LINES
    width = None if everything else _WIDTH
    for title, changes in (("configuration", found.configuration), ("manifest", found.manifest)):
        lines += _section(title, [_field(change, width) for change in changes], limit)
    lines += _section("packages", [_package(change) for change in found.packages], limit)
    changed = [layer for layer in found.layers if layer.status == "changed"]
    files = None if everything else max(_LEAST, _FILES // max(1, len(changed)))
    lines += ["", "layers"]
    for layer in found.layers:
        lines.append(f"  {_STATUS.get(layer.status, layer.status):<12}{layer.kind:<13} {_layer(layer)}")
        if layer.status == "changed":
            lines += _first(list(_files(layer)), files, "      ")
    return lines


def _verdict(found: ImageDiff) -> str:
    if found.same_content:
        other = sum(layer.status == "compression" for layer in found.layers)
        what = f"the compression of {other} of {len(found.layers)} layers" if other else "the manifest"
        return f"the same configuration and files; only {what} is another"
    parts = []
    if found.configuration:
        parts.append(_count(len(found.configuration), "configuration field"))
    if found.packages:
        parts.append(_count(len(found.packages), "package"))
    layers = sum(layer.status not in ("same", "compression") for layer in found.layers)
    if layers:
        parts.append(f"{layers} of {_count(len(found.layers), 'layer')}")
    if found.reordered:
        parts.append("the order of the layers")
    return ", ".join(parts) or "the same values and layers; only the configuration's JSON is written otherwise"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _side(name: str, side: Side) -> str:
    digest = f"manifest {side.digest}" if side.digest else f"no manifest, id {side.image.id}"
    return f"  {name}  {printable(side.reference)}  {digest}"


def _section(title: str, lines: Sequence[str], limit: int | None) -> list[str]:
    return ["", title, *_first(lines, limit, "  ")] if lines else []


def _first(lines: Sequence[str], limit: int | None, indent: str) -> list[str]:
    """The first lines, and how many more there are."""
    shown = [f"{indent}{line}" for line in islice(lines, limit)]
    left = len(lines) - len(shown)
    return [*shown, f"{indent}and {left:,} more (--all shows them)"] if left else shown


def _package(change: PackageChange) -> str:
    old, new = (printable(", ".join(versions)) for versions in (change.old, change.new))
    if not old or not new:
        return f"{'-' if old else '+'} {change.name} {old or new}"
    return f"{change.name} {old} → {new}"


def _field(change: FieldChange, width: int | None) -> str:
    name = printable(change.field)
    old, new = _value(change.old), _value(change.new)
    if change.old is None:
        return f"+ {name} {_cut(new, 0, width)}".rstrip()
    if change.new is None:
        return f"- {name} {_cut(old, 0, width)}".rstrip()
    start = 0
    if width is not None and max(len(old), len(new)) > width:
        # What stands long before the first difference says nothing.
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(old, new, strict=False)))
        start = max(0, same - width // 3)
    return f"{name} {_cut(old, start, width)} → {_cut(new, start, width)}"


def _value(value: Any) -> str:
    if value in ({}, None):  # a port or a volume is there or not
        return ""
    return printable(value) if isinstance(value, str) and value else json.dumps(value, ensure_ascii=True)


def _cut(value: str, start: int, width: int | None) -> str:
    end = len(value) if width is None else start + width
    return f"{'…' if start else ''}{value[start:end]}{'…' if len(value) > end else ''}"


def _layer(layer: LayerDiff) -> str:
    first, second = (found[1] if found else None for found in (layer.a, layer.b))
    if layer.status == "compression" and first and second:
        return (
            f"the same tar in other blobs: {first.digest[:19]}… → {second.digest[:19]}…, "
            f"{first.size:,} → {second.size:,} bytes"
        )
    if first is None or second is None:
        return f"{size(sum(item.size for item in (*layer.added.values(), *layer.removed.values())))}, " + _count(
            _files_in(layer), "file"
        )
    if layer.status == "same":
        return size(first.size if first.unpacked_size is None else first.unpacked_size)
    if layer.only_form:
        return "the same files; their order in the tar or the form of its headers differs"
    counts = ((layer.changed, "changed"), (layer.added, "added"), (layer.removed, "removed"))
    return ", ".join(f"{len(items):,} {word}" for items, word in counts if items)


def _files_in(layer: LayerDiff) -> int:
    return sum(item.kind != "directory" for item in (*layer.added.values(), *layer.removed.values()))


def _files(layer: LayerDiff) -> Iterator[str]:
    """A line an entry; directories that came or went at the end, for what is in them tells more."""
    for path, (old, new) in layer.changed.items():
        yield f"~ {printable(path)}  {_item_change(old, new)}"
    for directory in (False, True):
        for sign, items in (("+", layer.added), ("-", layer.removed)):
            for path, item in items.items():
                if (item.kind == "directory") is directory:
                    detail = f"{item.size:,} bytes" if item.kind == "file" else item.kind
                    yield f"{sign} {printable(path)}  {detail}"


def _item_change(old: Item, new: Item) -> str:
    from mpack.diff.compare import item_changes

    words = []
    for name, (before, after) in item_changes(old, new).items():
        if name in ("content", "xattrs") and (name == "xattrs" or {old.kind, new.kind} == {"file"}):
            words.append(name)
        elif name == "mtime":
            words.append(f"{name} {_time(before)} → {_time(after)}")
        else:
            shown = [f"{value:,}" if name == "size" else printable(str(value)) for value in (before, after)]
            words.append(f"{name} {shown[0] or '(none)'} → {shown[1] or '(none)'}")
    return ", ".join(words)


def _time(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).isoformat().removesuffix("+00:00") + "Z"
    except (OverflowError, ValueError, OSError):
        return str(seconds)


def printable(value: str) -> str:
    """Foreign text without what a terminal would act on."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in value)
