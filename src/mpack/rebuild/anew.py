"""Building an image again from its provenance: every layer made anew, nothing taken from what earlier builds left.

What another wrote may lead to no more than the build of an image that is thrown away: which artifact is read, within
what limits, and what its pickles may name is then for the user to say, and code of git repositories is built only with
the user's own consent.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from mpack.address import is_remote
from mpack.artifact.limits import Limits
from mpack.artifact.model import Trust
from mpack.builders import BuiltImage
from mpack.describe import Described, described
from mpack.env.lockfile import LockFile
from mpack.errors import EnvironmentFault, InputError, UsageError
from mpack.oci.image import OciImage
from mpack.oci.store import Store
from mpack.pipeline import BuildRequest, Workshop, make_builder, resolve_request
from mpack.plan import canonical_digest
from mpack.progress import Progress
from mpack.resolve import ResolveOptions, lock_inputs
from mpack.sandbox import pick_sandbox
from mpack.sandbox.codecache import CodeCache
from mpack.sandbox.compiler import SandboxCompiler
from mpack.supply.attachments import Kept
from mpack.supply.provenance import Provenance, template_of

#: open, resolve, build.
REBUILD_PHASES = 3


@dataclass(frozen=True)
class Rebuilt:
    """The image made anew, and the store that holds it unless an engine does."""

    image: BuiltImage
    store: Store


@dataclass(frozen=True)
class Consent:
    """The user's own words for a rebuild. `limits`, `trust_modules` and `trust_pickle` count where the record is not of
    this machine; else those of the build do."""

    allow_vcs: bool = False
    limits: Limits = Limits()
    trust_modules: frozenset[str] = frozenset()
    trust_pickle: bool = False


@contextmanager
def rebuilt(
    known: Kept,
    location: str,
    workshop: Workshop,
    progress: Progress,
    consent: Consent,
    template: Path | None = None,
) -> Iterator[Rebuilt]:
    """The image, built again of the artifact at `location`; it is gone when the context is left.

    Raises InputError artifact-digest or rebuild-impossible, EnvironmentFault lock-mismatch, base-unavailable, and
    what a build raises.
    """
    provenance = known.provenance
    require_versions(provenance)
    require_template(provenance, template)
    with workshop.store.lease(), workshop.store.scratch() as scratch:
        lock = scratch / "lock"
        entries = [provenance.lock, *([provenance.conversion] if provenance.conversion is not None else [])]
        LockFile({entry.key: entry for entry in entries}).write(lock)
        request = request_of(known, location, lock, consent, template)
        store = Store(scratch / "store")
        own = replace(workshop, store=store)
        with described(request, progress) as found:
            require_artifact(provenance, found)
            if provenance.conversion is not None:
                lend(workshop.store, workshop.bases.image(provenance.conversion.base), store)
                request, found = converted_anew(provenance, request, found, own, progress)
            require_same(provenance, found)
            if lock_inputs(found.spec, request.options).key != provenance.lock.key:
                raise _impossible("its lock is for other wishes than its parameters tell", "Build it anew.")
            resolution = resolve_request(request, found, workshop, progress)
            lend(workshop.store, workshop.bases.image(resolution.plan.base), store)
            in_docker = provenance.builder == "docker"
            with pick_sandbox(store, workshop.docker, prefer_docker=in_docker) as sandbox:
                compiler = SandboxCompiler(sandbox, CodeCache(scratch / "bytecode"))
                builder = make_builder(provenance.builder, request, found, own, compiler, anew=True)
                with progress.phase("build", "building the image again"):
                    image = builder.build(resolution.plan, found.spec.contents)
        yield Rebuilt(image, store)


def request_of(known: Kept, location: str, lock: Path, consent: Consent, template: Path | None) -> BuildRequest:
    """The build as it was asked for; what a foreign record would allow is as the user says now."""
    provenance, given = known.provenance, known.provenance.parameters
    limits, modules, pickle = consent.limits, consent.trust_modules, consent.trust_pickle
    if known.own:
        limits, modules, pickle = Limits(**given.limits), frozenset(given.trust_modules), given.trust_pickle
    return BuildRequest(
        location=location,
        packager=given.packager,
        arguments=given.arguments,
        base=given.base,
        builder=provenance.builder,
        options=ResolveOptions(given.platform, given.python, given.trim, consent.allow_vcs),
        lock=lock,
        template=template,
        limits=limits,
        trust=Trust(modules, pickle, given.keep_mlflow, given.gpu, given.conda),
        tolerance=given.tolerance,
        optimize=given.optimize,
    )


def require_versions(provenance: Provenance) -> None:
    """Raises InputError rebuild-impossible where another mpack built the image."""
    for name, wanted in provenance.versions.items():
        if version(name) != wanted:
            raise _impossible(
                f"it was built with {name} {wanted}, this is {version(name)}",
                f"Install {name}=={wanted} and try again.",
            )


def require_template(provenance: Provenance, template: Path | None) -> None:
    """Raises UsageError where the build had a Dockerfile template of the user's own, and it is not given again."""
    wanted = provenance.parameters.template
    if wanted != template_of(template) and (wanted or template):
        name = "no template of its own" if wanted is None else f"the template {wanted['name']} ({wanted['sha256']})"
        raise UsageError("usage", f"The image was built with {name}.", "Give that one with --dockerfile-template.")


def converted_anew(
    provenance: Provenance, request: BuildRequest, found: Described, workshop: Workshop, progress: Progress
) -> tuple[BuildRequest, Described]:
    """The model converted as it was. Raises InputError rebuild-impossible where it is not, here."""
    from mpack.optimize.described import optimized
    from mpack.optimize.flow import conversion_key

    assert provenance.conversion is not None
    if (
        conversion_key(found.artifact, request.options, found.arguments.dockerfileBaseImage)
        != provenance.conversion.key
    ):
        raise _impossible("the lock of its conversion is for other wishes than its parameters tell", "Build it anew.")
    request, found, outcome = optimized(request, found, workshop, progress, anew=True)
    if outcome.status == "kept":
        raise _impossible(f"its model is not converted here: {outcome.reason}", "See `mpack doctor`.")
    return request, found


def require_artifact(provenance: Provenance, found: Described) -> None:
    """Raises InputError for another artifact."""
    given = provenance.parameters
    if found.artifact.digest != given.artifact_digest:
        raise InputError(
            "artifact-digest",
            f"{found.artifact.location} is {found.artifact.digest}; the image was built of {given.artifact_digest}.",
            f"Give the artifact that it was built of ({given.artifact}) with --artifact.",
        )


def require_same(provenance: Provenance, found: Described) -> None:
    """Raises InputError for another artifact, or one that is described otherwise now."""
    require_artifact(provenance, found)
    given = provenance.parameters
    if canonical_digest(found.spec.public().to_json()) != provenance.spec:
        raise _impossible(
            f"of the same artifact the packager {given.packager} now wants something else",
            "mpack.toml beside the artifact must be what it was, and so must plugins and their versions.",
        )


def lend(source: Store, image: OciImage, target: Store) -> None:
    """Lets another store on the same file system have an image's blobs."""
    for digest in {image.digest, image.id, *(layer.digest for layer in image.layers)}:
        path = target.path(digest)
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source.path(digest), path)
        except OSError:  # a file system without hard links
            shutil.copyfile(source.path(digest), path)


def _impossible(why: str, hint: str) -> InputError:
    return InputError("rebuild-impossible", f"The image cannot be built again: {why}.", hint)


def artifact_location(known: Kept, given: str | None) -> str:
    """Where the artifact is: as the user says, else where it was when this machine built the image.

    Raises EnvironmentFault artifact-missing.
    """
    location = given or known.location
    if not location:
        raise EnvironmentFault(
            "artifact-missing",
            "The record of how the image was built is not of this machine, so it does not decide what is read here; "
            f"it tells of {known.provenance.parameters.artifact!r} with the digest "
            f"{known.provenance.parameters.artifact_digest}.",
            "Say where that artifact is with --artifact.",
        )
    if not is_remote(location) and not Path(location).exists():
        raise EnvironmentFault(
            "artifact-missing",
            f"The artifact that the image was built of, {location}, is not there.",
            "Say where it is with --artifact.",
        )
    return location
