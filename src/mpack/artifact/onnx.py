"""Bare ONNX files, read over the protobuf wire format: neither onnx nor onnxruntime is imported, nor weights read."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field

from mpack.artifact.model import Candidate, Description, Finding, Loader, Tree, Trust
from mpack.artifact.protobuf import BYTES, VARINT, Message, ProtobufError, ProtobufTruncated
from mpack.errors import InputError
from mpack.signature import Signature, Tensor
from mpack.spec import Requirement

#: TensorProto.DataType -> NumPy's name.
_DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "str", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16",
}  # fmt: skip
#: First onnxruntime that implements an opset (of the default domain), and one that reads an IR version.
_OPSET_RUNTIME = {20: "1.17", 21: "1.18", 22: "1.20", 23: "1.22", 24: "1.23", 25: "1.24", 26: "1.25"}
_IR_RUNTIME = {10: "1.18", 11: "1.21", 12: "1.23", 13: "1.24"}
_OLDEST_RUNTIME = "1.15"
#: Domains whose operators onnxruntime's own packages bring.
_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "com.microsoft", "com.microsoft.nchwc",
                      "com.microsoft.experimental", "com.ms.internal.nhwc", "ai.onnx.preview.training"})  # fmt: skip
_MAX_NESTING = 32


@dataclass
class Graph:
    """What an ONNX file tells: opsets by domain, IR version, inputs and outputs, files that hold its weights."""

    ir_version: int = 0
    opsets: dict[str, int] = field(default_factory=dict)
    inputs: list[Tensor | None] = field(default_factory=list)
    outputs: list[Tensor | None] = field(default_factory=list)
    initializers: set[str] = field(default_factory=set)
    locations: dict[str, None] = field(default_factory=dict)
    nodes: int = 0
    external: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def runtime(self) -> str:
        """The onnxruntime that can run it, as a requirement."""
        opset = max(self.opsets.get("", 0), self.opsets.get("ai.onnx", 0))
        versions = [_OLDEST_RUNTIME, *_at_most(_OPSET_RUNTIME, opset), *_at_most(_IR_RUNTIME, self.ir_version)]
        return f"onnxruntime>={max(versions, key=lambda text: tuple(map(int, text.split('.'))))}"

    @property
    def signature(self) -> Signature | None:
        """Inputs and outputs; None where one is no tensor (a sequence, a map), for only onnxruntime can tell then."""
        inputs = [item for item in self.inputs if item is None or item.name not in self.initializers]
        if not inputs or None in inputs:
            return None
        outputs = [] if None in self.outputs else self.outputs
        return Signature(tuple(item for item in inputs if item), tuple(item for item in outputs if item))


class OnnxFormat:
    """Format "onnx"."""

    name = "onnx"

    def detect(self, tree: Tree) -> list[Candidate]:
        return [Candidate(self.name, path) for path in tree if is_onnx(tree, path)]

    def read(self, tree: Tree, candidate: Candidate, trust: Trust) -> Description:
        path = candidate.root
        graph = read_onnx(tree, path)
        return Description(
            format=self.name,
            flavor="onnx",
            name=None,
            version=None,
            python=None,
            requirements=(Requirement(graph.runtime, "model", path),),
            loader=Loader("onnx", path, {}),
            ships={name: name for name in (path, *graph.external)},
            signature=graph.signature,
            findings=graph.findings,
        )


def is_onnx(tree: Tree, path: str) -> bool:
    """True for a file whose fields are a ModelProto's with a graph; or named .onnx, so that a broken one is told so."""
    if path.endswith(".onnx"):
        return True
    head = tree.head(path, 2)
    if len(head) < 2 or head[0] not in (0x08, 0x3A, 0x12, 0x42):  # ir_version, graph, producer, opset come first
        return False
    try:
        with tree.open(path) as stream:
            seen = {number: kind for number, kind, _ in Message(stream, 0, tree[path].size).fields()}
    except ProtobufError:
        return False
    return seen.get(1) == VARINT and seen.get(7) == BYTES and seen.get(8) == BYTES and max(seen) <= 26


def read_onnx(tree: Tree, path: str) -> Graph:
    """Reads a model. Raises InputError artifact-corrupt, or artifact-invalid for weights that are not there."""
    graph = Graph()
    size = tree[path].size
    try:
        with tree.open(path) as stream:
            _read_model(Message(stream, 0, size), graph)
    except ProtobufError as error:
        code = "artifact-truncated" if isinstance(error, ProtobufTruncated) else "artifact-corrupt"
        raise InputError(code, f"{path} is no whole ONNX model: {error}.", "Copy or export it again.") from None
    if not graph.ir_version or not graph.nodes or not graph.opsets:
        raise InputError(
            "artifact-corrupt", f"{path} is no ONNX model: it has no graph or no opset.", "Export it again."
        )
    graph.external = tuple(_external(tree, path, location) for location in graph.locations)
    graph.findings = tuple(_findings(graph, path))
    return graph


def _at_most(table: dict[int, str], wanted: int) -> list[str]:
    known = [version for key, version in table.items() if key <= wanted]
    return known[-1:]


def _findings(graph: Graph, path: str) -> Iterator[Finding]:
    strange = sorted(set(graph.opsets) - _DOMAINS)
    if strange:
        message = f"operators of {', '.join(strange)} are not part of onnxruntime; the model may not load"
        yield Finding("warning", message, path)
    opset = max(graph.opsets.get("", 0), graph.opsets.get("ai.onnx", 0))
    if opset > max(_OPSET_RUNTIME):
        yield Finding("warning", f"opset {opset} is newer than mpack knows; the newest onnxruntime is asked for", path)


def _external(tree: Tree, path: str, location: str) -> str:
    """The artifact's file that holds weights. Raises InputError where it is not there or leads out."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), location))
    if location.startswith("/") or target.startswith("../") or "\\" in location or ".." in location.split("/"):
        raise InputError(
            "artifact-unsafe", f"{path} keeps weights in {location!r}, outside its own folder.", "Export it again."
        )
    if target not in tree:
        raise InputError(
            "artifact-invalid",
            f"{path} keeps its weights in the file {location}, which is not in the artifact.",
            "Give the folder or an archive that holds both, or save the model without external data.",
        )
    return target


# --- the messages of onnx.proto, by field number


def _read_model(message: Message, graph: Graph) -> None:
    for number, _, value in message.fields():
        if number == 1 and isinstance(value, int):
            graph.ir_version = value
        elif number == 7 and isinstance(value, Message):
            _read_graph(value, graph)
        elif number == 8 and isinstance(value, Message):
            _read_opset(value, graph)
        elif number == 25 and isinstance(value, Message):
            _read_function(value, graph)


def _read_opset(message: Message, graph: Graph) -> None:
    domain, version = "", 0
    for number, _, value in message.fields():
        if number == 1 and isinstance(value, Message):
            domain = value.text()
        elif number == 2 and isinstance(value, int):
            version = value
    graph.opsets[domain] = max(version, graph.opsets.get(domain, 0))


def _read_graph(message: Message, graph: Graph, depth: int = 0) -> None:
    if depth > _MAX_NESTING:
        raise ProtobufError("graphs are nested too deeply")
    for number, _, value in message.fields():
        if not isinstance(value, Message):
            continue
        if number == 1:
            graph.nodes += 1
            _read_node(value, graph, depth)
        elif number == 5:
            name = _read_tensor(value, graph)
            graph.initializers.update({name} if depth == 0 else ())
        elif number == 15:
            _read_sparse(value, graph, depth)
        elif number in (11, 12) and depth == 0:
            (graph.inputs if number == 11 else graph.outputs).append(_read_value(value))


def _read_function(message: Message, graph: Graph) -> None:
    """A local function: its nodes may hold weights too, and its domain is then known."""
    for number, _, value in message.fields():
        if number == 7 and isinstance(value, Message):
            _read_node(value, graph, 1)
        elif number == 10 and isinstance(value, Message):
            graph.opsets.pop(value.text(), None)


def _read_node(message: Message, graph: Graph, depth: int) -> None:
    """Tensors (5, 10), graphs (6, 11) and sparse tensors (22, 23) in a node's attributes (5)."""
    for number, _, attribute in message.fields():
        if number != 5 or not isinstance(attribute, Message):
            continue
        for inner, _, value in attribute.fields():
            if not isinstance(value, Message):
                continue
            if inner in (5, 10):
                _read_tensor(value, graph)
            elif inner in (6, 11):
                _read_graph(value, graph, depth + 1)
            elif inner in (22, 23):
                _read_sparse(value, graph, depth)


def _read_sparse(message: Message, graph: Graph, depth: int) -> None:
    for number, _, value in message.fields():
        if number in (1, 2) and isinstance(value, Message):
            name = _read_tensor(value, graph)
            if number == 1 and depth == 0:
                graph.initializers.add(name)


def _read_tensor(message: Message, graph: Graph) -> str:
    """A tensor's name; where its bytes stand in another file is noted."""
    name = ""
    for number, kind, value in message.fields():
        if number == 8 and isinstance(value, Message):
            name = value.text()
        elif number == 13 and kind == BYTES and isinstance(value, Message):
            entry = {inner: item.text() for inner, _, item in value.fields() if isinstance(item, Message)}
            if entry.get(1) == "location":
                graph.locations[entry.get(2, "")] = None
    return name


def _read_value(message: Message) -> Tensor | None:
    """ValueInfoProto: a tensor, or None for a sequence, a map or an optional."""
    name, tensor = "", None
    for number, _, value in message.fields():
        if number == 1 and isinstance(value, Message):
            name = value.text()
        elif number == 2 and isinstance(value, Message):
            tensor = next((item for inner, _, item in value.fields() if inner == 1 and isinstance(item, Message)), None)
    if tensor is None:
        return None
    dtype, shape = "float32", ()  # type: str, tuple[int, ...]
    for number, _, value in tensor.fields():
        if number == 1 and isinstance(value, int):
            dtype = _DTYPES.get(value, "")
        elif number == 2 and isinstance(value, Message):
            shape = tuple(_read_dim(dim) for inner, _, dim in value.fields() if inner == 1 and isinstance(dim, Message))
    return Tensor(name, dtype, shape) if dtype else None


def _read_dim(message: Message) -> int:
    """A dimension's size; named and missing ones are free (-1)."""
    for number, _, value in message.fields():
        if number == 1 and isinstance(value, int):
            return value if value < 1 << 62 else -1
    return -1
