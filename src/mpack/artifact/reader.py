"""The whole reading: open, ask the formats, read, apply mpack.toml. Nothing of the artifact runs or is unpickled."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mpack.address import public
from mpack.artifact.beside import FILE_NAME, find_beside
from mpack.artifact.limits import Limits
from mpack.artifact.model import Artifact, Candidate, Description, Finding, Format, Sample, Tree, Trust
from mpack.artifact.source import open_tree, tree_digest
from mpack.contents import Hashing, Standing
from mpack.errors import InputError, MpackError, UsageError
from mpack.plugins import load_formats
from mpack.spec import Requirement

if TYPE_CHECKING:
    from mpack.artifact.overrides import LoaderTable, Overrides, SampleTable
    from mpack.stores.model import Access

#: Loader kind -> the options that mpack.toml may set. Not among them: whatever would lead round the pickle scan.
_LOADER_OPTIONS = {
    "sklearn": ("method",),
    "xgboost": ("class",),
    "lightgbm": ("class",),
    "odahu": ("entrypoint", "workdir"),
}
#: Formats of single files. Where the whole artifact is one model, its files are parts of it, whatever they look like.
_OF_FILES = frozenset({"onnx", "sklearn", "xgboost", "lightgbm", "torchscript", "openvino"})
_SHOWN = 10
Meanwhile = Callable[[Artifact, Standing], None]


def read_artifact(
    location: str,
    *,
    limits: Limits,
    trust: Trust,
    scratch: Path,
    meanwhile: Meanwhile | None = None,
    digest: str | None = None,
    access: Access | None = None,
) -> Artifact:
    """A path or an address as an Artifact. `scratch` is the caller's and must last as long as the files are read; of an
    address he holds the cache too (`mpack.artifact.remote.held`). `digest` and `access` are those of `open_tree`.

    With `meanwhile` large files are hashed in a thread, and it is called when all else is known, with the artifact and
    what stands in it for their digests. What it raises is passed over: it is a guess at what is asked again later.

    Raises InputError, EnvironmentFault disk-full, and what fetching raises; nothing new is in `scratch` then.
    """
    work = Path(tempfile.mkdtemp(prefix="read-", dir=scratch))
    try:
        with Hashing() as hashing:
            return _read(location, limits, trust, work, hashing, meanwhile, digest, access)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _read(
    location: str,
    limits: Limits,
    trust: Trust,
    work: Path,
    hashing: Hashing,
    meanwhile: Meanwhile | None,
    digest: str | None,
    access: Access | None,
) -> Artifact:
    beside = _beside(location)
    if beside is not None:
        trust, limits = beside.widen(trust), beside.limits_over(limits)
    tree = open_tree(location, limits, work, hashing if meanwhile else None, digest=digest, access=access)
    shown = public(location) if tree.origin is None else tree.origin.uri
    overrides = _merged(beside, tree)
    formats, faults = load_formats(without=_OF_FILES)
    found, broken = detect(tree, formats)
    if all(candidate.root for _, candidate in found):
        formats, faults = load_formats()
        found, broken = detect(tree, formats)
    faults += broken
    name, candidate = choose(tree, found, [*formats, *(fault.message for fault in faults)], shown)
    description = formats[name].read(tree, candidate, trust)
    if overrides is not None:
        description = apply(overrides, description, tree)
    findings = [*description.findings, *(Finding("warning", fault.message) for fault in faults), *_granted(beside)]
    artifact = Artifact(
        location=shown,
        digest="",
        files=tuple(tree.values()),
        name=description.name or tree.title,
        version=description.version or (tree.origin.facts.get("model_version") if tree.origin else None) or "0",
        description=replace(description, findings=tuple(findings)),
        system_packages=tuple(overrides.system_packages) if overrides else (),
        trust=trust,
        base=overrides.base if overrides else None,
        origin=tree.origin,
    )
    if meanwhile is not None:
        provisional, standing = artifact.provisional()
        with suppress(MpackError, OSError):
            if standing:
                meanwhile(provisional, standing)
    return replace(artifact, digest=tree_digest(tree))


def _beside(location: str) -> Overrides | None:
    if find_beside(location) is None:
        return None
    from mpack.artifact.overrides import read_beside

    return read_beside(location)


def _merged(beside: Overrides | None, tree: Tree) -> Overrides | None:
    """What mpack.toml beside and inside the artifact say together; None where there is neither."""
    if FILE_NAME not in tree:
        return beside
    from mpack.artifact.overrides import read_inside

    inside = read_inside(tree)
    return inside if beside is None else beside.over(inside)


Found = list[tuple[str, Candidate]]


def detect(tree: Tree, formats: Mapping[str, Format]) -> tuple[Found, list[MpackError]]:
    """Every (format, candidate), and what is wrong with formats that broke over this tree."""
    found: Found = []
    faults: list[MpackError] = []
    for name, plugin in formats.items():
        try:
            found += [(name, candidate) for candidate in plugin.detect(tree)]
        # A third party's format must not keep the others from reading an artifact that is none of its business.
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            faults.append(UsageError("plugin-broken", f"The format {name} failed to look at the artifact: {reason}."))
    return found, faults


def choose(tree: Tree, found: Found, tried: list[str], location: str) -> tuple[str, Candidate]:
    """The format and the one model that no other contains; `tried` are the formats, for the message.

    Raises InputError artifact-unknown or artifact-ambiguous.
    """
    outermost = [
        (name, candidate)
        for name, candidate in found
        if not any(other.contains(candidate) and not candidate.contains(other) for _, other in found)
    ]
    if not outermost:
        raise InputError(
            "artifact-unknown",
            f"{location} holds no model that mpack knows. It has {_listed(list(tree))}; "
            f"the formats tried are {', '.join(tried).rstrip('.') or 'none'}.",
            "Give a model directory, an archive of one, or a model file; see `mpack inspect --help`.",
        )
    if len(outermost) > 1:
        models = [f"{candidate.root or 'the whole of it'} ({name})" for name, candidate in outermost]
        raise InputError(
            "artifact-ambiguous",
            f"{location} holds more than one model: {_listed(models)}.",
            "Give the one that you mean by its own path, or take the others out.",
        )
    return outermost[0]


def apply(overrides: Overrides, description: Description, tree: Tree) -> Description:
    """The description with what mpack.toml says in place of what the artifact says."""
    requirements, findings = _requirements(overrides, description.requirements, tree)
    return replace(
        description,
        name=overrides.name or description.name,
        version=overrides.version or description.version,
        python=overrides.python or description.python,
        requirements=requirements,
        signature=overrides.signature.to_signature() if overrides.signature else description.signature,
        sample=_sample(overrides.sample, description.sample) if overrides.sample else description.sample,
        loader=replace(
            description.loader,
            options={**description.loader.options, **_options(overrides.loader, description.loader.kind)},
        ),
        findings=(*description.findings, *findings),
    )


def _requirements(
    overrides: Overrides, own: tuple[Requirement, ...], tree: Tree
) -> tuple[tuple[Requirement, ...], list[Finding]]:
    from mpack.artifact.requirements import parse_requirements

    result = list(own if overrides.requirements is None else ())
    findings: list[Finding] = []
    for key, lines in (("requirements", overrides.requirements), ("extra-requirements", overrides.extra_requirements)):
        if lines:
            parsed, notes = parse_requirements("\n".join(lines), f"{FILE_NAME} {key}", tree, "")
            result += parsed
            findings += notes
    return tuple(result), findings


def _sample(table: SampleTable, own: Sample | None) -> Sample:
    if table.request is not None:
        return Sample(request=table.request, expected=table.expected, tolerance=table.tolerance)
    if own is None:
        raise InputError(
            "override-invalid",
            f"{FILE_NAME} is wrong: sample has no request, and neither has the artifact.",
            "Add request or request-file to [sample].",
        )
    if table.expected is None:
        return replace(own, tolerance=table.tolerance)
    return replace(own, expected=table.expected, output_file=None, tolerance=table.tolerance)


def _options(table: LoaderTable, kind: str) -> dict[str, str]:
    options: dict[str, str] = table.model_dump(exclude_none=True, by_alias=True)
    for key in options:
        if key not in _LOADER_OPTIONS.get(kind, ()):
            known = ", ".join(_LOADER_OPTIONS.get(kind, ())) or "none"
            raise InputError(
                "override-invalid",
                f"{FILE_NAME} is wrong: loader.{key} does not apply to a model of the kind {kind}.",
                f"Its loader options are: {known}.",
            )
    return options


def _granted(beside: Overrides | None) -> list[Finding]:
    """Trust out of a file is easily forgotten: it is shown each time."""
    if beside is None:
        return []
    granted = [*sorted(beside.trust.modules), *(["everything"] if beside.trust.pickle else [])]
    if not granted:
        return []
    return [Finding("warning", f"{FILE_NAME} beside the artifact lets its pickles name {', '.join(granted)}.")]


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
