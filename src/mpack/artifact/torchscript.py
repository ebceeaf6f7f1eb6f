"""TorchScript files: what torch.jit.save writes. Told by names in the zip; nothing of it is unpickled.

It does not tell its inputs and outputs in a form that is readable without torch: a signature comes from _schema.json
or mpack.toml, whose tensors are named INPUT__0, INPUT__1, … and OUTPUT__0, … as Triton's backend wants them.
"""

from __future__ import annotations

from mpack.artifact.limits import Limits
from mpack.artifact.model import Candidate, Description, Finding, Loader, Tree, Trust
from mpack.artifact.triton_schema import schema_near, version_near
from mpack.artifact.zip import open_zip
from mpack.errors import InputError

_SUFFIXES = (".pt", ".pth", ".ts", ".jit", ".torchscript")
_MAX_ENTRIES = 100_000


class TorchScriptFormat:
    """Format "torchscript"."""

    name = "torchscript"

    def detect(self, tree: Tree) -> list[Candidate]:
        return [Candidate(self.name, path) for path in tree if path.endswith(_SUFFIXES) and _is_script(tree, path)]

    def read(self, tree: Tree, candidate: Candidate, trust: Trust) -> Description:
        path = candidate.root
        signature = schema_near(tree, path)
        findings = (
            [] if signature else [Finding("note", "a TorchScript file does not tell its inputs and outputs", path)]
        )
        names = _names(tree, path)
        top = next(name for name in names if name.endswith("/constants.pkl")).removesuffix("constants.pkl")
        for needed in ("data.pkl", "version"):
            if top + needed not in names:
                raise InputError(
                    "artifact-corrupt", f"{path} is no whole TorchScript file: it has no {needed}.", "Save it again."
                )
        return Description(
            format=self.name,
            flavor="torchscript",
            name=None,
            version=version_near(path),
            python=None,
            requirements=(),
            loader=Loader("torchscript", path),
            ships={path: path},
            signature=signature,
            findings=tuple(findings),
        )


def is_script(names: set[str]) -> bool:
    """True for a zip's names if torch.jit.save wrote it: a pickle of torch.save has no constants and no code."""
    tops = {name.removesuffix("constants.pkl") for name in names if name.endswith("/constants.pkl")}
    return any(name.startswith(f"{top}code/") for top in tops if top.count("/") == 1 for name in names)


def _is_script(tree: Tree, path: str) -> bool:
    try:
        return tree.head(path, 4) == b"PK\x03\x04" and is_script(_names(tree, path))
    except InputError:
        return False


def _names(tree: Tree, path: str) -> set[str]:
    try:
        with tree.open(path) as stream, open_zip(stream, Limits(entries=_MAX_ENTRIES)) as archive:
            return set(archive.namelist())
    except InputError as error:
        reason = f"{path} is no whole PyTorch file: {error.message}"
        raise InputError("artifact-corrupt", reason, "Save it again.") from None
