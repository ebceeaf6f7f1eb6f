"""Which layer of a plan can be begun before the plan is there: a large model's, for nothing but hashes is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from mpack.contents import Standing
from mpack.oci.store import Store
from mpack.spec import ImageSpec

if TYPE_CHECKING:
    from mpack.oci.layer import Entry

#: Takes a spec, and what stands in it for digests.
Begin = Callable[[ImageSpec, Standing], None]


@contextmanager
def early_model(store: Store, builder: str, *, wanted: bool = True) -> Iterator[Begin | None]:
    """Begins the layer of a large model in `store`, where the embedded builder finds it before the block ends; for
    another builder, or where it is not `wanted`, nothing is begun. What is being hashed must have ended by then."""
    if builder in ("docker", "buildah") or not wanted:
        yield None
        return
    with ExitStack() as stack:

        def begin(spec: ImageSpec, standing: Standing) -> None:
            from mpack.oci.early import EarlyLayer
            from mpack.oci.layer import tree_entries

            for tree in spec.trees:
                if tree.kind != "model" or all(file.sha256 not in standing for file in tree.files):
                    continue
                if not _roomy(store, sum(file.size for file in tree.files)):
                    return
                entries = [_pending(entry, standing) for entry in tree_entries(tree, spec.contents)]
                store.early = stack.enter_context(EarlyLayer(store, tree.kind, entries))
                return

        yield begin


def _roomy(store: Store, size: int) -> bool:
    """True where a layer of so many bytes leaves as many for what else is written."""
    import shutil

    try:
        store.root.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(store.root).free > 2 * size
    except OSError:
        return False


def _pending(entry: Entry, standing: Standing) -> Entry:
    found = standing.get(entry.sha256 or "")
    return entry if found is None else replace(entry, sha256=None, pending=found)
