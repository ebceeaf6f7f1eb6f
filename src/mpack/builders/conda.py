"""A plan's conda packages as one layer, made once for whatever plans have the same."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from mpack.dockerfile.render import CONDA_LAYER
from mpack.oci.files import disk_faults
from mpack.oci.image import canonical_json
from mpack.oci.layer import ENCODER, Layer
from mpack.oci.store import Store
from mpack.plan import ImagePlan

_KIND = "dependencies"


def put_conda_layer(store: Store, plan: ImagePlan, context: Path) -> None:
    """Puts the layer, if the plan has one, where a plan's Dockerfile unpacks it. Raises as `conda_layer`."""
    if plan.environment.conda is not None:
        with store.lease(), disk_faults("Writing the build context", context):
            layer, _ = conda_layer(store, plan)
            shutil.copyfile(store.path(layer.digest), context / CONDA_LAYER)
            (context / CONDA_LAYER).chmod(0o644)


def conda_layer(store: Store, plan: ImagePlan) -> tuple[Layer, bool]:
    """The layer, and whether it was there; the caller holds a lease. Raises what `prefix_entries` raises."""
    from mpack.conda.asking import program
    from mpack.conda.channels import Channels
    from mpack.conda.prefix import prefix_entries

    environment = plan.environment
    assert environment.conda is not None
    key = {
        "packages": [package.to_json() for package in environment.conda.packages],
        "platform": environment.platform,
        "trim": environment.trim,
        "program": program(),
    }
    name = f"conda {ENCODER} {hashlib.sha256(canonical_json(key)).hexdigest()}"
    found = store.cache.get(name)
    if found is not None:
        return found, True
    with store.scratch() as scratch:
        layer = store.write_layer(prefix_entries(environment, scratch, Channels.from_host()), kind=_KIND)
    store.cache.put(name, layer)
    return layer, False
