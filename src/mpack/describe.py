"""An artifact as its packager takes it: opened, with the arguments checked, and the spec that came of both."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from mpack.artifact.model import Artifact
from mpack.artifact.reader import read_artifact
from mpack.artifact.remote import held
from mpack.builders.early import Begin
from mpack.errors import InternalError, MpackError, UsageError
from mpack.naming import image_name, legal_reference, random_uuid
from mpack.packager import Packager
from mpack.plugins import load_packager
from mpack.progress import Progress
from mpack.records import dataclass
from mpack.request import BuildRequest
from mpack.spec import ImageSpec
from mpack.stores.model import Access

if TYPE_CHECKING:
    from mpack.contents import Standing
    from mpack.packager import Arguments
    from mpack.resolve import Resolution


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


@contextmanager
def described(request: BuildRequest, progress: Progress, begin: Begin | None = None) -> Iterator[Described]:
    """Opens the artifact and asks the packager. The artifact's files can be read until the context is left. `begin` is
    told the spec as soon as nothing but large files' hashes is missing."""
    guess = partial(_guess, request, begin) if begin is not None else None
    with (
        held(request.location),
        tempfile.TemporaryDirectory(prefix="mpack-artifact-", ignore_cleanup_errors=True) as scratch,
    ):
        with progress.phase("open", "reading the artifact"):
            artifact = read_artifact(
                request.location,
                limits=request.limits,
                trust=request.trust,
                scratch=Path(scratch),
                meanwhile=guess,
                digest=request.digest,
                access=Access(request.artifact_connection, progress),
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
