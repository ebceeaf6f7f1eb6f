"""A build as its provenance."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mpack.address import is_remote, public
from mpack.builders import BuiltImage
from mpack.installed import version
from mpack.oci.store import Store
from mpack.plan import canonical_digest
from mpack.resolve import Resolution
from mpack.spec import public_name
from mpack.supply.attachments import Kept, keep
from mpack.supply.provenance import DISTRIBUTIONS, Parameters, Provenance, make_provenance, template_of

if TYPE_CHECKING:
    from mpack.describe import Described
    from mpack.pipeline import BuildRequest


def record_build(
    request: BuildRequest, found: Described, resolution: Resolution, image: BuiltImage, store: Store
) -> None:
    """Lets the store remember how an image was built, and where on this machine the artifact is."""
    location = request.location if found.artifact.origin is None else found.artifact.origin.uri
    made = Kept(provenance_of(request, found, resolution, image), absolute(location))
    keep(store, image.id, made, in_store=image.location == "store")


def provenance_of(request: BuildRequest, found: Described, resolution: Resolution, image: BuiltImage) -> Provenance:
    """How an image was built."""
    options, trust = request.options, request.trust
    local = not is_remote(request.location)
    parameters = Parameters(
        artifact=Path(found.artifact.location).absolute().name if local else found.artifact.location,
        artifact_digest=found.artifact.digest,
        packager=found.packager.name,
        arguments={name: public_name(value) for name, value in request.arguments.items()},
        base=request.base and public_name(request.base),
        builder=request.builder,
        platform=options.platform,
        python=options.python,
        trim=options.trim,
        allow_vcs=options.allow_vcs,
        tolerance=request.tolerance,
        trust_modules=tuple(sorted(trust.modules)),
        trust_pickle=trust.pickle,
        keep_mlflow=trust.keep_mlflow,
        gpu=trust.gpu,
        conda=trust.conda,
        limits=asdict(request.limits),
        template=template_of(request.template),
        optimize=options.optimize,
    )
    return make_provenance(
        parameters,
        resolution.plan,
        resolution.entry,
        canonical_digest(found.spec.public().to_json()),
        image.builder,
        {name: version(name) for name in DISTRIBUTIONS},
        None if found.conversion is None else found.conversion.entry,
        found.artifact.origin,
    )


def absolute(location: str) -> str:
    """Where an artifact is, from whatever directory; a URL without what may be secret in it."""
    return public(location) if is_remote(location) else str(Path(location).absolute())
