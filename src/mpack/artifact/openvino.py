"""OpenVINO IR: a .xml with the network and a .bin with its weights. The XML is streamed, without entities."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import field

from mpack.artifact.model import Candidate, Description, Finding, Loader, Tree, Trust
from mpack.artifact.triton_schema import schema_near, version_near
from mpack.errors import InputError
from mpack.records import dataclass
from mpack.signature import Signature, Tensor

#: Element type (of a `data` element), or precision (of a port), in lower case -> NumPy's name.
_DTYPES = {
    "f16": "float16", "fp16": "float16", "f32": "float32", "fp32": "float32", "f64": "float64", "fp64": "float64",
    "bf16": "bfloat16", "i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64", "u8": "uint8", "u16": "uint16",
    "u32": "uint32", "u64": "uint64", "boolean": "bool", "bool": "bool", "string": "str",
}  # fmt: skip
_OLDEST = 10
_MAX_SIZE = 256 << 20
_MAX_DEPTH = 200
#: Of the largest networks, elements are some hundred thousand.
_MAX_ELEMENTS = 2_000_000


@dataclass(frozen=True)
class Network:
    """What an IR tells. `signature` is None where an input or output is no tensor of known type and rank."""

    version: int
    signature: Signature | None
    findings: tuple[Finding, ...] = ()


class OpenvinoFormat:
    """Format "openvino"."""

    name = "openvino"

    def detect(self, tree: Tree) -> list[Candidate]:
        return [Candidate(self.name, path) for path in tree if path.endswith(".xml") and is_ir(tree, path)]

    def read(self, tree: Tree, candidate: Candidate, trust: Trust) -> Description:
        path = candidate.root
        weights = weights_of(path)
        network = read_ir(tree, path, weights)
        return Description(
            format=self.name,
            flavor="openvino",
            name=None,
            version=version_near(path),
            python=None,
            requirements=(),
            loader=Loader("openvino", path),
            ships={name: name for name in (path, weights) if name in tree},
            signature=network.signature or schema_near(tree, path),
            findings=network.findings,
        )


def weights_of(path: str) -> str:
    """The path of an IR's weights."""
    return path.removesuffix(".xml") + ".bin"


def is_ir(tree: Tree, path: str) -> bool:
    """True for XML whose root, or what stands where it should, is <net …>."""
    return re.search(rb"<net[\s>]", tree.head(path)) is not None


def read_ir(tree: Tree, path: str, weights: str) -> Network:
    """Reads an IR. Raises InputError artifact-corrupt, -truncated, -unsafe (a document type), or -invalid (weights)."""
    from xml.parsers import expat

    if tree[path].size > _MAX_SIZE:
        raise InputError(
            "artifact-too-large",
            f"{path} is {tree[path].size} bytes; an IR's XML may have {_MAX_SIZE}.",
            "Convert it again.",
        )
    reader = _Reader()
    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = _no_doctype
    try:
        with tree.open(path) as stream:
            parser.ParseFile(stream)
    except expat.ExpatError as error:
        raise InputError("artifact-corrupt", f"{path} is no whole XML: {error}.", "Copy or convert it again.") from None
    except _Unsafe as error:
        raise InputError("artifact-unsafe", f"{path}: {error}.", "Convert the model again.") from None
    except (LookupError, ValueError) as error:  # expat takes codecs from Python, and these raise what they like
        raise InputError(
            "artifact-corrupt", f"{path} declares an encoding that XML cannot have: {error}.", "Save it as UTF-8."
        ) from None
    if reader.version is None or not reader.layers:
        raise InputError("artifact-corrupt", f"{path} is no IR: it has no <net> with layers.", "Convert it again.")
    _check_weights(tree, path, weights, reader.weights)
    findings = []
    signature = reader.signature()
    if reader.version < _OLDEST:
        findings.append(
            Finding("warning", f"IR version {reader.version}: OpenVINO since 2022 reads 10 and later", path)
        )
    elif signature is None:
        findings.append(Finding("warning", "an input or output has no known type or rank", path))
    return Network(reader.version, signature, tuple(findings))


def _check_weights(tree: Tree, path: str, weights: str, needed: int) -> None:
    if needed and weights not in tree:
        raise InputError(
            "artifact-invalid",
            f"{path} keeps its weights in {weights}, which is not in the artifact.",
            "Give both files.",
        )
    if needed and tree[weights].size < needed:
        raise InputError(
            "artifact-truncated",
            f"{weights} has {tree[weights].size} bytes; {path} reads {needed} of it.",
            "Copy both files again.",
        )


class _Unsafe(Exception):
    """What an IR never has."""


def _no_doctype(*_: object) -> None:
    raise _Unsafe("it declares a document type, which may hold entities")


@dataclasses.dataclass(slots=True)
class _Port:
    """One output of a layer: names, precision, dimensions."""

    names: str = ""
    precision: str = ""
    dims: list[str] = field(default_factory=list)


@dataclasses.dataclass(slots=True)
class _Layer:
    """One layer of the network itself (not of a loop's body)."""

    name: str
    kind: str
    shape: str | None = None
    element_type: str = ""
    inputs: dict[str, _Port] = field(default_factory=dict)
    outputs: dict[str, _Port] = field(default_factory=dict)


class _Reader:
    """The handlers: they keep the layers and, of the edges, which output a Result shows."""

    def __init__(self) -> None:
        self.version: int | None = None
        self.layers: dict[str, _Layer] = {}
        #: Bytes of the weights' file that constants read.
        self.weights = 0
        self._sources: dict[str, tuple[str, str]] = {}
        self._stack: list[str] = []
        self._elements = 0
        self._layer: _Layer | None = None
        self._port: _Port | None = None
        self._dim: str | None = None

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._stack.append(name)
        if len(self._stack) > _MAX_DEPTH:
            raise _Unsafe("its elements are nested too deeply")
        self._elements += 1
        if self._elements > _MAX_ELEMENTS:
            raise _Unsafe(f"it has more than {_MAX_ELEMENTS} elements")
        where = "/".join(self._stack) if len(self._stack) <= 6 else ""
        if where == "net":
            self.version = _number(attributes.get("version", "0"))
        elif where == "net/layers/layer":
            self._layer = _Layer(attributes.get("name", ""), attributes.get("type", ""))
            self.layers[attributes.get("id", "")] = self._layer
        elif where == "net/layers/layer/data" and self._layer:
            self._layer.shape = attributes.get("shape")
            self._layer.element_type = attributes.get("element_type", "")
            if self._layer.kind == "Const":
                end = _number(attributes.get("offset", "")) + _number(attributes.get("size", ""))
                self.weights = max(self.weights, end)
        elif where in ("net/layers/layer/input/port", "net/layers/layer/output/port") and self._layer:
            self._port = _Port(attributes.get("names", ""), attributes.get("precision", ""))
            side = self._layer.inputs if "/input/" in where else self._layer.outputs
            side[attributes.get("id", "")] = self._port
        elif where.endswith("/port/dim") and self._port:
            self._dim = ""
        elif where == "net/edges/edge":
            source = (attributes.get("from-layer", ""), attributes.get("from-port", ""))
            self._sources[attributes.get("to-layer", "")] = source

    def end(self, name: str) -> None:
        self._stack.pop()
        if self._dim is not None and name == "dim" and self._port:
            self._port.dims.append(self._dim.strip())
            self._dim = None
        elif name == "port":
            self._port = None

    def text(self, data: str) -> None:
        if self._dim is not None and len(self._dim) < 100:
            self._dim += data

    def signature(self) -> Signature | None:
        """None where a side is empty, or has what cannot be told."""
        inputs = [_input(layer) for layer in self.layers.values() if layer.kind == "Parameter"]
        outputs = [self._output(key, layer) for key, layer in self.layers.items() if layer.kind == "Result"]
        if not inputs or not outputs or None in inputs or None in outputs:
            return None
        return Signature(tuple(item for item in inputs if item), tuple(item for item in outputs if item))

    def _output(self, key: str, result: _Layer) -> Tensor | None:
        """Named as OpenVINO names it: by the tensor that the Result shows, else by the layer that makes it."""
        layer, port = self._sources.get(key, ("", ""))
        source = self.layers.get(layer)
        if source is None or port not in source.outputs:
            return None
        shown = source.outputs[port]
        name = _first(shown.names) or (source.name if len(source.outputs) == 1 else f"{source.name}.{port}")
        return _tensor(name, shown.precision, shown.dims)


def _input(layer: _Layer) -> Tensor | None:
    port = next(iter(layer.outputs.values()), _Port())
    dims = port.dims if layer.shape is None else [part for part in layer.shape.split(",") if part]
    return _tensor(_first(port.names) or layer.name, layer.element_type or port.precision, dims)


def _tensor(name: str, precision: str, dims: list[str]) -> Tensor | None:
    dtype = _DTYPES.get(precision.lower())
    if dtype is None or "..." in dims or not name:
        return None
    return Tensor(name, dtype, tuple(int(dim) if re.fullmatch(r"[0-9]{1,18}", dim, re.ASCII) else -1 for dim in dims))


def _first(names: str) -> str:
    r"""The first of a port's names; "\," is a comma in a name."""
    return re.split(r"(?<!\\),", names)[0].replace("\\,", ",")


def _number(text: str) -> int:
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text, re.ASCII) else 0
