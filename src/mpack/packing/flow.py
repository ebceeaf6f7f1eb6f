"""One packaging from its manifests to its record: choose, check, find the artifact, build, write down."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpack.bounds import bounded
from mpack.engine.local import Hail
from mpack.errors import MpackError, VerificationError
from mpack.manifests import CheckedPackaging, Manifests, ModelPackaging, Resources
from mpack.packing.artifacts import with_artifact
from mpack.packing.record import LoggedProgress, recorded
from mpack.records import dataclass
from mpack.request import BuildRequest
from mpack.results import Results

if TYPE_CHECKING:
    from mpack.again import Repeated
    from mpack.result import BuildResult


@dataclass(frozen=True)
class Asked:
    """What the command line says of a packaging. `id` None: the only one; `targets` False: none of them."""

    id: str | None = None
    artifact_path: Path | None = None
    artifact_name: str | None = None
    targets: bool = False
    disabled: tuple[str, ...] = ()


def pack(
    manifests: Manifests,
    asked: Asked,
    request: BuildRequest,
    progress: LoggedProgress,
    known: Callable[[BaseException], MpackError],
) -> tuple[str, BuildResult | Repeated]:
    """Packages; the packaging's id, and what came of the build. `request` is what the command line says of the build.

    Raises ManifestError and UsageError before anything is written down, then what a build raises.
    """
    from mpack.manifests import check_packaging

    checked = check_packaging(
        manifests,
        asked.id,
        artifact_name=asked.artifact_name,
        targets=asked.targets,
        disabled_targets=asked.disabled,
        output=asked.artifact_path is None,
    )
    packaging, name = checked.packaging, checked.artifact_name
    arguments = {name: _as_given(value) for name, value in checked.arguments.items() if value is not None}
    facts = {"packager": checked.packager, "arguments": checked.arguments, "artifact": {"name": name, "digest": None}}
    document = _document(packaging, name)
    with recorded(Results.default(), packaging.id, document, facts, progress, known) as found:
        for note in _notes(manifests, checked, asked):
            progress.say(note)
        for warning in [*manifests.warnings, *checked.warnings, *_too_much(checked.resources)]:
            progress.warn(warning)
        limits = checked.resources
        with bounded(limits.cpu_limit, limits.memory_limit), _naming_limit(limits):
            request = replace(
                request,
                packager=checked.packager,
                arguments=arguments,
                pull_connection=checked.pull,
                push_connection=checked.push,
            )
            request = with_artifact(request, name, asked.artifact_path, checked.output)
            result = _build(request, progress)
        found |= _facts(result, name)
    return packaging.id, result


def _build(request: BuildRequest, progress: LoggedProgress) -> BuildResult | Repeated:
    from mpack.again import build_again

    with closing(Hail()) as hail:
        result = build_again(request, progress, hail)
        if result is not None:
            return result
        from mpack.pipeline import build

        return build(request, progress, hail)


def _as_given(value: Any) -> str:
    """A JSON value as `mpack build -a` has it."""
    return value if isinstance(value, str) else json.dumps(value)


def packed_image(result: BuildResult | Repeated) -> str:
    """The reference that is the packaging's result: the pushed one, where it was pushed."""
    return result.outputs[-1]


def _facts(result: BuildResult | Repeated, name: str) -> dict[str, Any]:
    """What is kept of a build that ended well."""
    told = result.to_json()
    return {
        "artifact": {"name": name, "digest": told.get("artifact_digest")},
        "plan": told.get("plan"),
        "image": told["image"],
        "digest": told["digest"] or told["id"],
        "results": [{"name": "image", "value": packed_image(result)}],
    }


def _document(packaging: ModelPackaging, artifact_name: str) -> Mapping[str, Any]:
    spec = packaging.document.get("spec")
    return {**packaging.document, "spec": {**(spec or {}), "artifactName": artifact_name}}


def _notes(manifests: Manifests, checked: CheckedPackaging, asked: Asked) -> Iterator[str]:
    """Sentences on what of the manifests is not used."""
    kinds = sorted({kind for kind, _, _ in manifests.passed_over})
    if kinds:
        yield f"passed over: {len(manifests.passed_over)} documents of kind {', '.join(kinds)}"
    integration = checked.integration
    if integration.not_used:
        yield f"not used of the integration {integration.id}: {', '.join(integration.not_used)}"
    off = [target.name for target in checked.packaging.targets if not asked.targets or target.name in asked.disabled]
    if off:
        hint = "" if asked.targets else "; --no-disable-package-targets uses them"
        yield f"targets that are disabled: {', '.join(off)}{hint}"


def _too_much(resources: Resources) -> Iterator[str]:
    """Sentences on requests that this machine cannot meet."""
    processors, memory = os.cpu_count() or 1, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if (resources.cpu_request or 0) > processors:
        yield f"spec.resources.requests.cpu is {resources.cpu_request:g}; this machine has {processors} processors"
    if (resources.memory_request or 0) > memory:
        wanted = (resources.memory_request or 0) / 1e6
        yield f"spec.resources.requests.memory is {wanted:.0f} MB; this machine has {memory / 1e6:.0f} MB"


@contextmanager
def _naming_limit(resources: Resources) -> Iterator[None]:
    """Has a failed verification say that the manifest bounds its memory."""
    try:
        yield
    except VerificationError as error:
        if resources.memory_limit is None:
            raise
        told = f"The manifest's spec.resources.limits.memory is {resources.memory_limit / 1e6:.0f} MB."
        raise VerificationError(error.code, error.message, f"{told} {error.hint}") from error
