"""The one build flow: open, describe, resolve, build, verify, lock, write. Everything else only calls or is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mpack.again import remember, state_of
from mpack.bases import bases_of
from mpack.builders import Builder, BuiltImage
from mpack.builders.choice import choose_builder
from mpack.builders.early import early_model
from mpack.describe import Described, described
from mpack.engine import Docker
from mpack.env.hostindex import HostIndex
from mpack.env.lockfile import LockEntry, LockFile, lock_path
from mpack.errors import InputError, UsageError, disk_fault
from mpack.oci.files import alone_in
from mpack.oci.store import Store
from mpack.packager import Packager
from mpack.plan import ImagePlan
from mpack.platforms import as_index, require_builder, require_platforms
from mpack.progress import Progress
from mpack.rebuild.record import record_build
from mpack.records import dataclass
from mpack.request import BuildRequest as BuildRequest
from mpack.resolve import Resolution, resolve, with_bytecode
from mpack.result import BuildResult, PlatformImage
from mpack.sandbox import Sandbox, pick_sandbox
from mpack.targets import Target, connection_targets, default_outputs, parse_output
from mpack.verify import Verification, bytecode_of, require_passed, run_self_check, skip_reason, verify

if TYPE_CHECKING:
    from mpack.bases import Bases
    from mpack.builders.embedded import Compiler
    from mpack.connections import Connection
    from mpack.engine.local import Hail
    from mpack.env.index import IndexSettings


@dataclass(frozen=True)
class _LateCompiler:
    """`SandboxCompiler`, made when there is something to compile: most builds have nothing."""

    sandbox: Sandbox | None

    def compile(self, *what: Any) -> Mapping[str, bytes]:
        from mpack.sandbox.codecache import CodeCache
        from mpack.sandbox.compiler import SandboxCompiler

        return SandboxCompiler(self.sandbox, CodeCache.default()).compile(*what)


@dataclass(frozen=True)
class Workshop:
    """What of this machine a build uses: the store, the engine if one answers, the bases, the index."""

    store: Store
    docker: Docker | None
    bases: Bases

    @cached_property
    def index(self) -> IndexSettings:
        """The host's index settings, read when first asked for."""
        return cast("IndexSettings", HostIndex())

    @classmethod
    def of_this_machine(
        cls,
        store: Store | None = None,
        *,
        need_docker: bool = False,
        hail: Hail | None = None,
        pull: Connection | None = None,
    ) -> Workshop:
        """`pull`: what bases of its registry are pulled with. Raises EnvironmentFault engine-unavailable when an engine
        is needed and none answers, InputError connection-invalid."""
        store = store or Store.default()
        docker = Docker.find(hail) if need_docker else Docker.answering(hail)
        return cls(store, docker, bases_of(store, docker, pull))


def resolve_request(request: BuildRequest, found: Described, workshop: Workshop, progress: Progress) -> Resolution:
    """The plan, from the lock file where it has an entry for this; a file that the user named must have one."""
    path = request.lock or lock_path(request.location)
    lock = LockFile({}) if request.update_lock else LockFile.read(path, closed=request.lock is not None)
    with progress.phase("resolve", "resolving the environment"):
        return resolve(
            *(found.spec, request.options),
            bases=workshop.bases,
            index=workshop.index,
            lock=lock,
            pins=request.pins,
            say=progress.say,
        )


def build(request: BuildRequest, progress: Progress, hail: Hail | None = None) -> BuildResult:
    """Builds, verifies, locks and writes. Until the image is verified nothing is tagged or written.

    `hail`: the engine was asked already who it is.
    """
    asked, targets, before, store = request, request_targets(request), state_of(request), Store.default()
    with (
        early_model(store, request.builder, wanted=not request.optimize) as begin,
        described(request, progress, begin) as found,
    ):
        name = found.name(request.tag)
        pushed = connection_targets(request.push_connection, name, request.attest)
        require_targets(found.packager, [*targets, *pushed])
        workshop = Workshop.of_this_machine(
            store, need_docker=_needs_docker(request), hail=hail, pull=request.pull_connection
        )
        outcome = None
        if request.optimize is not None:
            from mpack.optimize.described import optimized

            request, found, outcome = optimized(request, found, workshop, progress)
        requests = request.each()
        platforms = [item.options.platform for item in requests]
        if not targets and (request.keep_local or not pushed):
            targets = default_outputs(workshop.docker)
            if workshop.docker is None:
                progress.say("no container engine answers: the image goes to mpack's store")
        targets += pushed
        require_platforms(platforms, found.spec, targets, workshop.docker)
        require_builder(request.builder, platforms)
        resolutions = [resolve_request(item, found, workshop, progress) for item in requests]
        to_docker = any(target.kind == "docker" for target in targets)
        template = request.template or found.packager.template
        builder_name = choose_builder(request.builder, resolutions[0].plan, template, workshop.docker)
        require_builder(builder_name, platforms)
        prefer_docker = to_docker or builder_name == "docker"
        # What the sandbox gave the engine stays until the outputs are written: the docker target only names it.
        with pick_sandbox(workshop.store, workshop.docker, prefer_docker=prefer_docker) as sandbox:
            compiler = _LateCompiler(sandbox)
            builder = make_builder(builder_name, request, found, workshop, compiler)
            made: list[PlatformImage] = []
            entries: list[LockEntry] = []
            for item in resolutions:
                image, resolution, verification = build_verified(request, found, item, builder, sandbox, progress)
                made.append(PlatformImage(image, resolution.plan, verification))
                record_build(requests[len(entries)], found, resolution, image, workshop.store)
                entries.append(resolution.entry)
            if len(made) > 1:
                image = as_index(workshop.store, made)
            if found.conversion is not None:
                resolutions.append(found.conversion)
                entries.append(found.conversion.entry)
            fresh = request.update_lock or any(item.fresh for item in resolutions)
            lock = write_lock(request, *entries) if fresh else request.lock or lock_path(request.location)
            outputs = write_outputs(targets, image, name, workshop, progress)
    for one in made:
        warn_of_relaxed(one.plan, one.verification, progress)
        for note in one.image.notes:
            progress.warn(note)
    told = None if outcome is None else outcome.to_json()
    origin = None if found.artifact.origin is None else found.artifact.origin.to_json()
    image = with_pushed_digest(image, targets, outputs)
    digest = found.artifact.digest
    result = BuildResult(name, image, tuple(made), outputs, lock, progress.timings, digest, told, origin)
    remember(asked, before, digest, found.naming, image, result.to_json(), progress)
    return result


def request_targets(request: BuildRequest) -> list[Target]:
    """The outputs asked for. Raises as `parse_output`, and UsageError for a key without a registry."""
    targets = [parse_output(text, request.attest, request.sign_key) for text in request.outputs]
    if request.sign_key is not None and not any(target.kind == "registry" for target in targets):
        raise UsageError("usage", "--sign-key signs images at a registry.", "Add -o registry:REF.")
    return targets


def require_targets(packager: Packager, targets: Sequence[Target]) -> None:
    """Raises UsageError packager-unfit for an output that the packager's images are not made for."""
    for target in targets:
        if target.kind not in packager.targets:
            raise UsageError(
                "packager-unfit",
                f"Images of the packager {packager.name} cannot go to {target}.",
                f"They can go to {', '.join(packager.targets)}.",
            )


def write_lock(request: BuildRequest, *entries: LockEntry) -> Path:
    """Puts the entries into the lock file beside the entries of other ways of building; the file's path."""
    path = request.lock or lock_path(request.location)
    hint = "Name another with --lock FILE"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with alone_in(path.parent, hint):
            return _write_lock(path, request, entries)
    except OSError as error:
        raise disk_fault(error, f"Writing the lock file {path}", f"{hint}.") from error


def _write_lock(path: Path, request: BuildRequest, entries: Sequence[LockEntry]) -> Path:
    try:
        lock = LockFile.read(path)
    except InputError:
        # A damaged file is replaced where the user asked for a new lock.
        if not request.update_lock:
            raise
        lock = LockFile({})
    for entry in entries:
        lock = lock.with_entry(entry)
    lock.write(path)
    return path


def write_outputs(
    targets: Sequence[Target], image: BuiltImage, name: str, workshop: Workshop, progress: Progress
) -> tuple[str, ...]:
    """The outputs' references, in order. Where one fails, the ones before it stay, and are told."""
    written: list[str] = []
    for target in targets:
        try:
            with progress.phase("write", f"writing to {target}"):
                written.append(target.write(image, name, workshop.store, workshop.docker))
        except BaseException:
            if written:
                progress.warn(f"written before writing to {target} failed: {', '.join(written)}")
            raise
    return tuple(written)


def with_pushed_digest(image: BuiltImage, targets: Sequence[Target], outputs: Sequence[str]) -> BuiltImage:
    """The image with the manifest digest that a push gave it, where an engine built it."""
    pushed = [
        output.rpartition("@")[2] for target, output in zip(targets, outputs, strict=True) if target.kind == "registry"
    ]
    return replace(image, digest=pushed[0]) if image.digest is None and pushed else image


def build_verified(
    request: BuildRequest,
    found: Described,
    resolution: Resolution,
    builder: Builder,
    sandbox: Sandbox | None,
    progress: Progress,
) -> tuple[BuiltImage, Resolution, Verification]:
    """The image, verified unless that was declined or cannot be done here; a fresh lock learns its byte code here."""
    contents, trimmed = found.spec.contents, resolution.plan.environment.trim
    skipped = "--no-verify" if not request.verify else skip_reason(resolution.plan.platform, sandbox)
    if skipped is not None or sandbox is None:
        with progress.phase("build", "building the image"):
            image = builder.build(resolution.plan, contents)
        if request.verify:
            progress.warn(f"the image was not verified: {skipped}")
        if resolution.fresh:
            progress.say("no byte code: what to compile is learnt from a verification; the lock says so")
            resolution = with_bytecode(resolution, None)
        return image, resolution, Verification("skipped", reason=skipped)
    if resolution.fresh:
        with progress.phase("build", "building the image"):
            draft = builder.build(resolution.plan, contents)
        with sandbox.open(draft) as box, progress.phase("verify", "asking the model its sample"):
            check = run_self_check(box, modules=True)
        require_passed(check.verification, draft, trimmed=trimmed)
        resolution = with_bytecode(resolution, bytecode_of(check, resolution.plan.below, trim=trimmed))
        with progress.phase("build", "adding byte code"):
            image = builder.build(resolution.plan, contents)
    else:
        with progress.phase("build", "building the image"):
            image = builder.build(resolution.plan, contents)
    with progress.phase("verify", "verifying the image"):
        verification = verify(image, sandbox).verification
    require_passed(verification, image, trimmed=trimmed)
    return image, resolution, verification


def warn_of_relaxed(plan: ImagePlan, verification: Verification, progress: Progress) -> None:
    """Says so where pins were relaxed and no answer of the new versions was compared with what the model gave."""
    relaxed = plan.environment.relaxed
    if relaxed and verification.against != "expected":
        progress.warn(f"pins were relaxed for another Python, and no answer was compared: {', '.join(relaxed)}")


def make_builder(
    name: str,
    request: BuildRequest,
    found: Described,
    workshop: Workshop,
    compiler: Compiler,
    *,
    anew: bool = False,
) -> Builder:
    """The builder of that name. `anew`: buildah takes no step of an earlier build."""
    if name == "embedded":
        from mpack.builders.embedded import EmbeddedBuilder

        return EmbeddedBuilder(workshop.store, workshop.bases, workshop.index, compiler)
    template = request.template or found.packager.template
    if name == "buildah":
        from mpack.builders.buildah import BuildahBuilder
        from mpack.engine.buildah import Buildah

        return BuildahBuilder(Buildah.find(), workshop.store, workshop.bases, workshop.index, template, anew=anew)
    from mpack.builders.docker import DockerBuilder

    docker = workshop.docker or Docker.find()
    return DockerBuilder(docker, workshop.store, workshop.bases, workshop.index, template)


def _needs_docker(request: BuildRequest) -> bool:
    return request.builder == "docker" or "docker" in request.outputs
