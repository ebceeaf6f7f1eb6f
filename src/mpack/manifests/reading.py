"""Reading manifests: files and directories to frozen data, every fault of all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mpack.connections import Connection
from mpack.manifests import connection, integration, packaging
from mpack.manifests.faults import Fault, ManifestError, nearest, shown
from mpack.manifests.fields import Field, Report, read_object
from mpack.manifests.files import Source, Unreadable, read_text, sources
from mpack.manifests.model import Manifests, ModelPackaging, PackagingIntegration, Where
from mpack.manifests.nodes import Document, plain, read_documents, sort_of

#: Kinds of the reference system that mean nothing here.
OTHERS = ("ModelTraining", "ToolchainIntegration", "ModelDeployment", "ModelRoute", "InferenceService", "InferenceJob")

_Read = Callable[[dict[str, Any], Any, Report], "ModelPackaging | PackagingIntegration | Connection"]
#: kind -> its fields, and what makes it of them.
KINDS: Mapping[str, tuple[tuple[Field, ...], _Read]] = {
    "ModelPackaging": (packaging.FIELDS, packaging.read_packaging),
    "PackagingIntegration": (integration.FIELDS, integration.read_integration),
    "Connection": (connection.FIELDS, connection.read_connection),
}


class _Reading:
    """What was found so far."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.warnings: list[str] = []
        self.passed: list[tuple[str, str, Where]] = []
        self.found: dict[str, dict[str, tuple[Any, Where, Any]]] = {kind: {} for kind in KINDS}

    def source(self, source: Source) -> None:
        told: list[Fault] = []

        def tell(message: str, line: int | None, number: int) -> None:
            told.append(Fault(source.path, message, "", number, line))

        try:
            documents = read_documents(read_text(source.path), tell)
        except Unreadable as error:
            told, documents = [Fault(source.path, str(error))], []
        if source.listed and _foreign(documents, told, source.likely):
            self.warnings.append(f"{source.path} is no manifest and is passed over.")
            return
        self.faults += told
        for document in documents:
            self.document(source, document)

    def document(self, source: Source, document: Document) -> None:
        node = document.node
        report = Report(source.path, document.number, node, self.faults)
        if not isinstance(node.value, dict):
            report.add("", f"a document must be a mapping with kind, id and spec, and this is {sort_of(node)}")
            return
        kind = node.value.get("kind")
        if kind is not None:
            report.lines["kind"] = kind.line
        if kind is None or kind.value in (None, ""):
            report.add("kind", "it is required")
        elif not isinstance(kind.value, str):
            report.add("kind", f"it must be a text, and is {sort_of(kind)}")
        elif kind.value in OTHERS:
            name = node.value.get("id")
            self.passed.append((kind.value, str(name.value) if name is not None else "", report.where))
        elif kind.value not in KINDS:
            said = nearest(kind.value, (*KINDS, *OTHERS), others=False) or f"; known are {', '.join((*KINDS, *OTHERS))}"
            report.add("kind", f"{shown(kind.value)} is no kind that is known{said}")
        else:
            self.resource(kind.value, document, report)

    def resource(self, kind: str, document: Document, report: Report) -> None:
        fields, make = KINDS[kind]
        before = len(self.faults)
        found = read_object(document.node, fields, "", report)
        text = plain(document.node) if kind != "Connection" else None
        made = make(found, text, report)
        if len(self.faults) > before:
            return
        known = self.found[kind]
        # Two connections are compared as they are written: their secrets are not looked up.
        written = plain(document.node)
        if made.id in known and known[made.id][2] != written:
            self.warnings.append(f"{kind} {made.id} of {known[made.id][1]} is replaced by that of {report.where}.")
        known[made.id] = (made, report.where, written)

    def manifests(self) -> Manifests:
        if self.faults:
            raise ManifestError(self.faults)
        things = {kind: {name: item[0] for name, item in known.items()} for kind, known in self.found.items()}
        return Manifests(
            packagings=things["ModelPackaging"],
            integrations=things["PackagingIntegration"],
            connections=things["Connection"],
            passed_over=tuple(self.passed),
            warnings=tuple(self.warnings),
        )


def _foreign(documents: list[Document], told: list[Fault], likely: bool) -> bool:
    """Whether a file of a directory is about something else: a conda.yaml, a README."""
    objects = [item.node.value for item in documents if isinstance(item.node.value, dict)]
    if likely:
        return bool(documents) and not told and not any({"kind", "id", "spec"} & set(item) for item in objects)
    return not any("kind" in item and item["kind"].value in (*KINDS, *OTHERS) for item in objects)


def read_manifests(files: Iterable[Path | str] = (), directories: Iterable[Path | str] = ()) -> Manifests:
    """All that files and directories say; a directory among `files` is read as one of `directories`, and a file that
    is named twice once. A directory's own files are read, by name; not its directories, hidden files, or backups (~).

    Raises ManifestError (manifest-invalid) with the faults of all files.
    """
    reading = _Reading()
    for source in sources(map(Path, files), map(Path, directories)):
        if isinstance(source, Source):
            reading.source(source)
        else:
            reading.faults.append(Fault(*source))
    return reading.manifests()
