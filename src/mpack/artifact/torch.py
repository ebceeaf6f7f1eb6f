"""PyTorch files inside MLflow models: the pickles in a zip of torch.save, or a TorchScript archive's."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator

from mpack.artifact.model import Tree
from mpack.artifact.pickle_values import Global
from mpack.artifact.pickles import PickleScan, root_of, scan_pickle, scan_stream
from mpack.errors import InputError

_MAX_PICKLE = 256 << 20


def scan_torch(tree: Tree, path: str) -> Iterator[PickleScan]:
    """A scan of each pickle in a file: what a zip holds under data.pkl, or the file itself.

    torch's own pickles refer to their weights by persistent ids, which a plain unpickler refuses: so does the scan, and
    --trust-pickle is what accepts them. TorchScript (with constants.pkl) runs by torch's own interpreter.
    """
    if tree.head(path, 4) != b"PK\x03\x04":
        if root_of(tree, path):
            yield scan_pickle(tree, path, joblib=False)
        return
    try:
        with tree.open(path) as stream, zipfile.ZipFile(stream) as archive:
            names = archive.namelist()
            if any(name.endswith("/constants.pkl") for name in names):
                yield PickleScan(path, "torchscript", None, (script := Global("torch.jit", "ScriptModule"),), (script,))
                return
            for name in names:
                if name.endswith(".pkl"):
                    data = archive.read(name) if archive.getinfo(name).file_size <= _MAX_PICKLE else b""
                    yield scan_stream(io.BytesIO(data), f"{path}:{name}")
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError, EOFError) as error:
        raise InputError("artifact-corrupt", f"{path} is no whole PyTorch file: {error}.", "Save it again.") from None
