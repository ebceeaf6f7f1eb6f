"""The one build flow: open, describe, resolve, build, verify, lock, write. Everything else only calls or is called."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from mpack.again import remember, state_of
from mpack.artifact.model import Artifact
from mpack.artifact.reader import read_artifact
from mpack.bases import bases_of
from mpack.builders import Builder, BuiltImage
from mpack.builders.early import Begin, early_model
from mpack.engine import Docker
from mpack.env.hostindex import HostIndex
from mpack.env.lockfile import LockEntry, LockFile, lock_path
from mpack.errors import InputError, InternalError, MpackError, UsageError, disk_fault
from mpack.naming import image_name, legal_reference, random_uuid
from mpack.oci.files import alone_in
from mpack.oci.store import Store
from mpack.packager import Packager
from mpack.plan import ImagePlan
from mpack.platforms import as_index, require_embedded, require_platforms
from mpack.plugins import load_packager
from mpack.progress import Progress
from mpack.rebuild.record import record_build
from mpack.records import dataclass
from mpack.request import BuildRequest as BuildRequest
from mpack.resolve import Resolution, resolve, with_bytecode
from mpack.result import BuildResult, PlatformImage
from mpack.sandbox import Sandbox, pick_sandbox
from mpack.spec import ImageSpec
from mpack.targets import Target, default_outputs, parse_output
from mpack.verify import Verification, bytecode_of, require_passed, run_self_check, skip_reason, verify

if TYPE_CHECKING:
    from mpack.bases import Bases
    from mpack.builders.embedded import Compiler
    from mpack.contents import Standing
    from mpack.engine.local import Hail
    from mpack.env.index import IndexSettings
    from mpack.packager import Arguments


@dataclass(frozen=True)
class Described:
    """An artifact with the packager that takes it, the arguments, and the spec that came of both."""

    artifact: Artifact
    packager: Packager
    arguments: Arguments
    spec: ImageSpec
    #: A directory that lasts as long as the artifact can be read.
    scratch: Path | None = None
    #: What converted the model, if something did.
    conversion: Resolution | None = None

    def name(self, tag: str | None) -> str:
        """The image's name: the tag given, else the imageName template."""
        if tag is not None:
            return legal_reference(tag)
        naming = self.naming
        return image_name(naming["template"], name=naming["model"], version=naming["version"], unique=random_uuid())

    @property
    def naming(self) -> Mapping[str, str]:
        """What a name is made of where no tag is given."""
        artifact = self.artifact
        return {"template": self.arguments.imageName, "model": artifact.name, "version": artifact.version}


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
        cls, store: Store | None = None, *, need_docker: bool = False, hail: Hail | None = None
    ) -> Workshop:
        """Raises EnvironmentFault engine-unavailable when an engine is needed and none answers."""
        store = store or Store.default()
        docker = Docker.find(hail) if need_docker else Docker.answering(hail)
        return cls(store, docker, bases_of(store, docker))


@contextmanager
def described(request: BuildRequest, progress: Progress, begin: Begin | None = None) -> Iterator[Described]:
    """Opens the artifact and asks the packager. The artifact's files can be read until the context is left. `begin` is
    told the spec as soon as nothing but large files' hashes is missing."""
    guess = partial(_guess, request, begin) if begin is not None else None
    with tempfile.TemporaryDirectory(prefix="mpack-artifact-", ignore_cleanup_errors=True) as scratch:
        with progress.phase("open", "reading the artifact"):
            artifact = read_artifact(
                request.location, limits=request.limits, trust=request.trust, scratch=Path(scratch), meanwhile=guess
            )
            found = describe(with_tolerance(artifact, request.tolerance), request)
        for finding in artifact.description.findings:
            if finding.level != "note":
                progress.warn(f"{finding.path}: {finding.message}" if finding.path else finding.message)
        for warning in found.spec.warnings:
            progress.warn(warning)
        yield replace(found, scratch=Path(scratch))


def _guess(request: BuildRequest, begin: Begin, artifact: Artifact, standing: Standing) -> None:
    begin(describe(artifact, request).spec, standing)


def with_tolerance(artifact: Artifact, tolerance: float | None) -> Artifact:
    """The artifact with the relative tolerance that the user gave for its sample's answer, if any."""
    sample = artifact.description.sample
    if tolerance is None or sample is None:
        return artifact
    return replace(artifact, description=replace(artifact.description, sample=replace(sample, tolerance=tolerance)))


def describe(artifact: Artifact, request: BuildRequest) -> Described:
    """The packager's spec. Raises UsageError packager-unknown, packager-unfit or argument-invalid."""
    name = request.packager
    if name == "auto":
        name = "docker-triton" if artifact.needs_triton else "docker-rest"
    packager = load_packager(name)
    with packager_faults(name):
        reason = packager.accepts(artifact)
    if reason is not None:
        raise UsageError(
            "packager-unfit",
            f"The packager {name} does not take {artifact.location}: {reason}.",
            "See `mpack inspect` for the packagers that do.",
        )
    given = dict(request.arguments)
    if request.base is not None:
        given["dockerfileBaseImage"] = request.base
    arguments = packager_arguments(packager, given)
    with packager_faults(name):
        spec = packager.spec(artifact, arguments)
    return Described(artifact, packager, arguments, spec)


@contextmanager
def packager_faults(name: str) -> Iterator[None]:
    """Turns what a packager raises by mistake into an InternalError that names it."""
    try:
        yield
    except (MpackError, OSError):
        raise
    except Exception as error:
        raise InternalError(
            "internal",
            f"This is a bug in the packager {name}: {type(error).__name__}: {error}.",
            "Run `mpack --debug …` again and report the traceback to its authors.",
        ) from error


def packager_arguments(packager: Packager, given: Mapping[str, str]) -> Arguments:
    """The arguments as the packager's model. Raises UsageError argument-invalid naming each wrong one."""
    defaults = getattr(packager, "defaults", None)
    if defaults is not None and not given:
        return cast("Arguments", SimpleNamespace(**defaults))
    from pydantic import ValidationError

    try:
        return packager.arguments.model_validate(dict(given))
    except ValidationError as error:
        known = ", ".join(packager.arguments.model_fields)
        lines = []
        for item in error.errors():
            where = ".".join(str(part) for part in item["loc"])
            reason = "no such argument" if item["type"] == "extra_forbidden" else item["msg"]
            lines.append(f"{where}: {reason}")
        raise UsageError(
            "argument-invalid",
            f"The packager {packager.name} refuses {'; '.join(lines)}.",
            f"Its arguments are {known}; see `mpack packagers {packager.name}`.",
        ) from error


def resolve_request(request: BuildRequest, found: Described, workshop: Workshop, progress: Progress) -> Resolution:
    """The plan, from the lock file where it has an entry for this."""
    path = request.lock or lock_path(request.location)
    lock = LockFile({}) if request.update_lock else LockFile.read(path)
    with progress.phase("resolve", "resolving the environment"):
        return resolve(
            found.spec, request.options, bases=workshop.bases, index=workshop.index, lock=lock, say=progress.say
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
        require_targets(found.packager, targets)
        name = found.name(request.tag)
        workshop = Workshop.of_this_machine(store, need_docker=_needs_docker(request), hail=hail)
        outcome = None
        if request.optimize is not None:
            from mpack.optimize.described import optimized

            request, found, outcome = optimized(request, found, workshop, progress)
        requests = request.each()
        platforms = [item.options.platform for item in requests]
        if not targets:
            targets = default_outputs(workshop.docker)
            if workshop.docker is None:
                progress.say("no container engine answers: the image goes to mpack's store")
        require_platforms(platforms, found.spec, targets, workshop.docker)
        resolutions = [resolve_request(item, found, workshop, progress) for item in requests]
        to_docker = any(target.kind == "docker" for target in targets)
        builder_name = choose_builder(request, found, resolutions[0].plan)
        require_embedded(builder_name, platforms)
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
    image = with_pushed_digest(image, targets, outputs)
    result = BuildResult(name, image, tuple(made), outputs, lock, progress.timings, told)
    remember(asked, before, found.artifact.digest, found.naming, image, result.to_json(), progress)
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
        return image, resolution, Verification("skipped", reason=skipped)
    if resolution.fresh:
        with progress.phase("build", "building the image"):
            draft = builder.build(resolution.plan, contents)
        with sandbox.open(draft) as box, progress.phase("verify", "asking the model its sample"):
            check = run_self_check(box, modules=True)
        require_passed(check.verification, draft, trimmed=trimmed)
        resolution = with_bytecode(resolution, bytecode_of(check, resolution.plan.base, trim=trimmed))
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


def choose_builder(request: BuildRequest, found: Described, plan: ImagePlan) -> str:
    """embedded wherever the plan needs no engine. Raises InputError plan-not-embeddable when embedded was asked for."""
    from mpack.dockerfile import beyond_plan, not_embeddable

    if request.builder == "docker":
        return "docker"
    extra = beyond_plan(plan, request.template or found.packager.template)
    if extra is None:
        return "embedded"
    if request.builder == "embedded":
        raise not_embeddable(request.template or found.packager.template, extra)
    return "docker"


def make_builder(name: str, request: BuildRequest, found: Described, workshop: Workshop, compiler: Compiler) -> Builder:
    """The builder of that name."""
    if name == "embedded":
        from mpack.builders.embedded import EmbeddedBuilder

        return EmbeddedBuilder(workshop.store, workshop.bases, workshop.index, compiler)
    from mpack.builders.docker import DockerBuilder

    docker = workshop.docker or Docker.find()
    template = request.template or found.packager.template
    return DockerBuilder(docker, workshop.store, workshop.bases, workshop.index, template)


def _needs_docker(request: BuildRequest) -> bool:
    return request.builder == "docker" or "docker" in request.outputs
