"""skops files: a zip with a schema.json that names every type in it, held against the same list as pickles."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from typing import Any

from mpack.artifact.model import Tree
from mpack.artifact.pickle_machine import calls_by_name
from mpack.artifact.pickle_source import Unfollowable
from mpack.artifact.pickle_values import METHOD_KEYS, NUMBER, Global, check_methods
from mpack.artifact.pickles import PickleScan
from mpack.errors import InputError
from mpack.records import dataclass

#: What NumPy's and SciPy's own files in it may be at most; read by skops without pickle.
MAX_SCHEMA = 128 << 20
_HINT = "Save the model again with skops.io.dump."


@dataclass(frozen=True)
class SkopsFile:
    """What a skops file says of itself: `scan` for `pickles.judge`, versions, and attribute names that it sets."""

    scan: PickleScan
    skops_version: str | None
    sklearn_version: str | None
    attributes: frozenset[str]

    @property
    def trusted(self) -> list[str]:
        """Types to name to skops.io.load, which refuses all others that it does not know itself."""
        return sorted(str(name) for name in self.scan.globals)


def is_skops(tree: Tree, path: str) -> bool:
    """True for a zip that begins as one and holds a schema.json. Never raises on bad content."""
    if tree.head(path, 4) != b"PK\x03\x04":
        return False
    try:
        with tree.open(path) as stream, zipfile.ZipFile(stream) as archive:
            return "schema.json" in archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError):
        return False


def read_skops(tree: Tree, path: str) -> SkopsFile:
    """Reads the schema. Raises InputError artifact-corrupt."""
    schema = _schema(tree, path)
    if not isinstance(schema, dict) or not isinstance(schema.get("__class__"), str):
        raise InputError("artifact-corrupt", f"{path} is a skops file whose schema.json describes no object.", _HINT)
    names: dict[Global, None] = {}
    attributes: set[str] = set()
    version: str | None = None
    problem: str | None = None
    for node in _nodes(schema):
        problem = problem or _strange(node)
        found = _name(node)
        if found:
            names[found] = None
        content = node.get("content")
        if isinstance(content, dict):
            attributes.update(content)
            version = version or _json_string(content.get("_sklearn_version"))
    from mpack.artifact.allowlist import known

    scan = PickleScan(
        path=path,
        serialization="skops",
        compression=None,
        globals=tuple(names),
        unknown=tuple(name for name in names if not known(name.module, name.name)),
        problem=problem,
        root=_name(schema),
    )
    written_by = schema.get("_skops_version")
    return SkopsFile(scan, written_by if isinstance(written_by, str) else None, version, frozenset(attributes))


def _schema(tree: Tree, path: str) -> Any:
    try:
        with tree.open(path) as stream, zipfile.ZipFile(stream) as archive:
            if archive.namelist().count("schema.json") != 1:
                raise InputError("artifact-corrupt", f"{path} holds more than one schema.json.", _HINT)
            with archive.open("schema.json") as member:
                data = member.read(MAX_SCHEMA + 1)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError, EOFError) as error:
        raise InputError("artifact-corrupt", f"{path} is no whole skops file: {error}.", _HINT) from None
    if len(data) > MAX_SCHEMA:
        raise InputError("artifact-too-large", f"schema.json in {path} has more than {MAX_SCHEMA >> 20} MiB.")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError("artifact-corrupt", f"schema.json in {path} is no JSON: {error}.", _HINT) from None


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Every object in the schema, in order, without recursion."""
    pending = [schema]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            yield value
            pending += reversed(list(value.values()))
        elif isinstance(value, list):
            pending += reversed(value)


def _name(node: dict[str, Any]) -> Global | None:
    """What a node imports: its class, or (in the oldest files) its function."""
    for module, name in (("__module__", "__class__"), ("module_path", "function")):
        if isinstance(node.get(module), str) and isinstance(node.get(name), str):
            return Global(node[module], node[name])
    return None


def _strange(node: dict[str, Any]) -> str | None:
    if node.get("__loader__") in ("MethodNode", "OperatorFuncNode"):
        return "it looks up an attribute by name while it is loaded"
    found = _name(node)
    if found and calls_by_name(found) and node.get("__loader__") in ("TypeNode", "PartialNode", "FunctionNode"):
        return f"it uses the class {found} as a value"
    content = node.get("content")
    content = content if isinstance(content, dict) else {}
    for key in METHOD_KEYS.intersection(content):
        try:
            check_methods(key, tuple(_texts(content[key])))
        except Unfollowable as error:
            return str(error)
    if ("__class__" in node or "__module__" in node) and _name(node) is None:
        return "it names a class by something that is no text"
    return None


def _texts(node: Any) -> Iterator[Any]:
    """The values in a JsonNode or in a list of such; anything else is no text."""
    if not isinstance(node, dict):
        yield NUMBER
    elif isinstance(node.get("content"), list):
        for item in node["content"]:
            yield _json_string(item) or NUMBER
    elif node.get("__loader__") == "FunctionNode":
        yield _name(node)
    elif node.get("content") != "null":
        yield _json_string(node) or NUMBER


def _json_string(node: Any) -> str | None:
    """The text in a JsonNode."""
    try:
        value = json.loads(node["content"])
    except (TypeError, KeyError, ValueError):
        return None
    return value if isinstance(value, str) else None
