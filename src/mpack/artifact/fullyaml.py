"""YAML by PyYAML, no larger than it is written."""

from __future__ import annotations

from typing import Any

import yaml

#: Values that a document may have when every alias is written out.
MAX_VALUES = 1_000_000
#: Keys of one mapping after its merges ("<<"), which are written out while the document is read.
MAX_MERGED = 10_000


class _Loader(yaml.SafeLoader):
    """The safe loader with an end to merging."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        before = len(node.value)
        super().flatten_mapping(node)
        if len(node.value) > max(before, MAX_MERGED):
            raise ValueError(f"its merges make a mapping of more than {MAX_MERGED} keys")


def parse_yaml(text: str) -> Any:
    """The document. Raises ValueError on what is not YAML, is nested too deeply, or grows by its aliases."""
    try:
        document = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
        _expanded(document, {})
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return document


def _expanded(value: Any, sizes: dict[int, int]) -> int:
    """How many values there are below `value`, aliases written out; a few lines of them can make billions."""
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) not in sizes:
        sizes[id(value)] = MAX_VALUES + 1  # met again below itself: endless
        children = value.values() if isinstance(value, dict) else value
        sizes[id(value)] = 1 + sum(_expanded(item, sizes) for item in children)
    if sizes[id(value)] > MAX_VALUES:
        raise ValueError(f"its aliases make more than {MAX_VALUES} values")
    return sizes[id(value)]
