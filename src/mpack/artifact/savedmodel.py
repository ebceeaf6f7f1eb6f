"""TensorFlow SavedModels, read over the protobuf wire format: tensorflow is not imported, nor a variable read."""

from __future__ import annotations

from mpack.artifact.model import Candidate, Description, Finding, Loader, Tree, Trust
from mpack.artifact.protobuf import Budget, Message, ProtobufError, ProtobufTruncated
from mpack.artifact.triton_layout import CONFIG, below
from mpack.artifact.triton_schema import schema_near, version_near
from mpack.errors import InputError
from mpack.records import dataclass
from mpack.signature import Signature, Tensor

FILE_NAME = "saved_model.pb"
#: Its directory in the image, by the name that Triton looks for.
SHIPPED_AS = "model.savedmodel"
#: The signature that a server asks.
DEFAULT = "serving_default"
#: tensorflow.DataType -> NumPy's name.
_DTYPES = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 7: "str", 8: "complex64", 9: "int64",
    10: "bool", 14: "bfloat16", 17: "uint16", 18: "complex128", 19: "float16", 22: "uint32", 23: "uint64",
}  # fmt: skip
_MAX_SIGNATURES = 1000
#: Of all fields that are looked at; graphs and variables are skipped whole.
_MAX_FIELDS = 1_000_000


@dataclass(frozen=True)
class SavedModel:
    """What saved_model.pb tells: its serving signature, or None where that has what is no plain tensor."""

    signature: Signature | None
    findings: tuple[Finding, ...] = ()


class SavedModelFormat:
    """Format "savedmodel": a directory with saved_model.pb."""

    name = "savedmodel"

    def detect(self, tree: Tree) -> list[Candidate]:
        folders = [path.rpartition("/")[0] for path in tree if path.rpartition("/")[2] == FILE_NAME]
        return [Candidate(self.name, folder) for folder in folders if _join(folder, CONFIG) not in tree]

    def read(self, tree: Tree, candidate: Candidate, trust: Trust) -> Description:
        files = below(tree, candidate.root)
        found = read_saved_model(tree, files[FILE_NAME])
        signature = found.signature or schema_near(tree, candidate.root)
        return Description(
            format=self.name,
            flavor="tensorflow",
            name=None,
            version=version_near(_join(candidate.root, FILE_NAME)) or version_near(candidate.root),
            python=None,
            requirements=(),
            loader=Loader("savedmodel", SHIPPED_AS),
            ships={f"{SHIPPED_AS}/{name}": path for name, path in files.items() if name != "mpack.toml"},
            signature=signature,
            findings=found.findings,
        )


def read_saved_model(tree: Tree, path: str) -> SavedModel:
    """Reads saved_model.pb. Raises InputError artifact-corrupt, -truncated, or -invalid where variables are missing."""
    try:
        with tree.open(path) as stream:
            graphs = [
                item
                for number, _, item in Message(stream, 0, tree[path].size, Budget(_MAX_FIELDS)).fields()
                if number == 2 and isinstance(item, Message)
            ]
            signatures = [(_tags(graph), _signatures(graph)) for graph in graphs]
    except ProtobufError as error:
        code = "artifact-truncated" if isinstance(error, ProtobufTruncated) else "artifact-corrupt"
        raise InputError(code, f"{path} is no whole SavedModel: {error}.", "Copy or export it again.") from None
    if not signatures:
        raise InputError("artifact-corrupt", f"{path} is no SavedModel: it has no graph.", "Export it again.")
    _check_variables(tree, path)
    serving = next((found for tags, found in signatures if "serve" in tags), signatures[0][1])
    if DEFAULT not in serving:
        others = ", ".join(sorted(name for name in serving if not name.startswith("__"))) or "none"
        message = f"it has no signature {DEFAULT} (it has {others}): its inputs and outputs are not known"
        return SavedModel(None, (Finding("warning", message, path),))
    signature = serving[DEFAULT]
    if signature is None:
        message = f"the signature {DEFAULT} has what is no tensor of known type and rank"
        return SavedModel(None, (Finding("warning", message, path),))
    return SavedModel(signature)


def _check_variables(tree: Tree, path: str) -> None:
    folder = _join(path.rpartition("/")[0], "variables/")
    names = [name.removeprefix(folder) for name in tree if name.startswith(folder)]
    data = [name for name in names if name.startswith("variables.data-")]
    if bool(data) != ("variables.index" in names):
        missing = "variables.index" if data else "variables.data-…"
        raise InputError(
            "artifact-invalid", f"{folder}{missing} is not in the artifact.", "Copy the SavedModel's whole directory."
        )


# --- the messages of meta_graph.proto, by field number


def _tags(graph: Message) -> set[str]:
    tags: set[str] = set()
    for number, _, info in graph.fields():
        if number == 1 and isinstance(info, Message):
            tags |= {item.text() for inner, _, item in info.fields() if inner == 4 and isinstance(item, Message)}
    return tags


def _signatures(graph: Message) -> dict[str, Signature | None]:
    """Name -> signature; None for one that holds what is no plain tensor."""
    found: dict[str, Signature | None] = {}
    for number, _, entry in graph.fields():
        if number == 5 and isinstance(entry, Message):
            name, value = _entry(entry)
            found[name] = _signature(value) if value else None
        if len(found) > _MAX_SIGNATURES:
            raise ProtobufError(f"it has more than {_MAX_SIGNATURES} signatures")
    return found


def _signature(message: Message) -> Signature | None:
    sides: dict[int, list[Tensor | None]] = {1: [], 2: []}
    for number, _, entry in message.fields():
        if number in sides and isinstance(entry, Message):
            name, value = _entry(entry)
            sides[number].append(_tensor(name, value) if value else None)
    if None in sides[1] or None in sides[2]:
        return None
    inputs, outputs = (
        sorted((item for item in sides[side] if item), key=lambda item: item.name or "") for side in sides
    )
    return Signature(tuple(inputs), tuple(outputs))


def _entry(message: Message) -> tuple[str, Message | None]:
    """A map's entry: key 1, value 2."""
    name, value = "", None
    for number, _, item in message.fields():
        if number == 1 and isinstance(item, Message):
            name = item.text()
        elif number == 2 and isinstance(item, Message):
            value = item
    return name, value


def _tensor(name: str, info: Message) -> Tensor | None:
    """TensorInfo: None for a sparse or composite tensor, an unknown type or an unknown rank."""
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    for number, _, value in info.fields():
        if number == 2 and isinstance(value, int):
            dtype = _DTYPES.get(value)
        elif number == 3 and isinstance(value, Message):
            shape = _shape(value)
        elif number in (4, 5):
            return None
    return Tensor(name, dtype, shape) if dtype and shape is not None else None


def _shape(message: Message) -> tuple[int, ...] | None:
    dims: list[int] = []
    for number, _, value in message.fields():
        if number == 2 and isinstance(value, Message):
            size = next((item for inner, _, item in value.fields() if inner == 1 and isinstance(item, int)), 0)
            dims.append(size if size < 1 << 62 else -1)
        elif number == 3 and value:
            return None
    return tuple(dims)


def _join(root: str, name: str) -> str:
    return f"{root}/{name}" if root else name
