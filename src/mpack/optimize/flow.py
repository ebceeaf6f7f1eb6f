"""The conversion of one artifact: its environment resolved and locked, its image built, run in a sandbox, and read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mpack.artifact.model import Artifact
from mpack.errors import InputError
from mpack.optimize.kept import Conversions
from mpack.optimize.outcome import Conversion, Outcome, parse
from mpack.optimize.wish import SERVING, conversion_spec, optimized_artifact, unfit
from mpack.plan import VENV, ImagePlan
from mpack.records import dataclass
from mpack.resolve import Resolution, lock_inputs, resolve
from mpack.sandbox import Box, Sandbox, memory_limit, pick_sandbox, this_platform

if TYPE_CHECKING:
    from mpack.bases import Bases
    from mpack.contents import Contents
    from mpack.engine import Docker
    from mpack.env.index import IndexSettings
    from mpack.env.lockfile import LockFile
    from mpack.oci.store import Store
    from mpack.progress import Progress
    from mpack.request import ResolveOptions

#: Seconds that converting a model and asking both may take.
TIME_LIMIT = 1800.0
TOLERANCE = 1e-6
NO_SANDBOX = "neither a container engine nor runc is at hand to convert the model in"
_CONVERT = (f"{VENV}/bin/python", "-m", "mpack_runtime.convert")
#: Of an environment with the converters; without them the model may well have one.
_NO_ENVIRONMENT = ("requirements-clash", "requirements-unavailable")
#: Exit codes of a sandbox: time was up, too much was written, killed by the kernel.
_TIMED_OUT, _TOO_MUCH, _KILLED = 124, 125, 137


@dataclass(frozen=True)
class Optimization:
    """`artifact` is the one to package: with the graph if there is one, and the resolution of the environment that
    converted it; else as it was."""

    artifact: Artifact
    outcome: Outcome
    conversion: Resolution | None = None


@dataclass(frozen=True)
class Workplace:
    """What of this machine a conversion uses. `kept` None: nothing that earlier builds converted is taken."""

    store: Store
    docker: Docker | None
    bases: Bases
    index: IndexSettings
    kept: Conversions | None
    scratch: Path


def optimize(
    artifact: Artifact,
    place: Workplace,
    options: ResolveOptions,
    lock: LockFile,
    progress: Progress,
    *,
    base: str | None = None,
    tolerance: float | None = None,
) -> Optimization:
    """The artifact with its model as an ONNX graph, if one agrees with it.

    `base` is the user's base image, `tolerance` what he allows numbers to differ by. Raises what resolving and building
    raise for an environment that there is.
    """
    reason = unfit(artifact)
    if reason is not None:
        return Optimization(artifact, Outcome.of(reason))
    spec, own = conversion_spec(artifact, base), _here(options)
    with progress.phase("convert", "resolving what converts the model"):
        try:
            resolution = resolve(spec, own, bases=place.bases, index=place.index, lock=lock, say=progress.say)
        except InputError as error:
            if error.code not in _NO_ENVIRONMENT:
                raise
            return Optimization(artifact, Outcome.of(f"no environment has the converters too: {error.message}"))
    sample = artifact.description.sample
    allowed = tolerance if tolerance is not None else sample.tolerance if sample is not None else TOLERANCE
    with progress.phase("convert", "converting the model to ONNX and comparing answers"):
        found = _converted(resolution.plan, spec.contents, place, allowed)
    if isinstance(found, str):
        return Optimization(artifact, Outcome.of(found))
    product = (artifact.digest, found.digest)
    told = resolution.entry.product
    if told is not None and told[0] == product[0] and told != product:
        progress.warn(f"the converted model is {product[1]}; the lock tells of {told[1]}, of the same artifact")
    changed = optimized_artifact(artifact, found, _versions(resolution), place.scratch)
    entry = replace(resolution.entry, product=product, draft=False)
    return Optimization(changed, Outcome.of(found), replace(resolution, entry=entry))


def conversion_key(artifact: Artifact, options: ResolveOptions, base: str | None) -> str:
    """The key of the lock entry for what converts an artifact."""
    return lock_inputs(conversion_spec(artifact, base), _here(options)).key


def _here(options: ResolveOptions) -> ResolveOptions:
    """A graph is for every platform; it is made on this machine's."""
    return replace(options, platform=this_platform(), optimize=None)


def _versions(resolution: Resolution) -> dict[str, str]:
    packages = resolution.plan.environment.packages
    return {package.name: package.version for package in packages if package.name in SERVING}


def _converted(plan: ImagePlan, contents: Contents, place: Workplace, tolerance: float) -> Conversion | str:
    key = f"{plan.digest} {tolerance!r}"
    output = place.kept.get(key) if place.kept is not None else None
    if output is not None:
        try:
            return parse(output)
        except ValueError:
            pass  # of another mpack's form
    with pick_sandbox(place.store, place.docker, prefer_docker=False) as sandbox:
        if sandbox is None:
            return NO_SANDBOX
        output, fault = _run(plan, contents, place, sandbox, tolerance)
    if fault is not None:
        return fault
    try:
        found = parse(output)
    except ValueError as error:
        return f"the conversion did not tell what came of it: {error}"
    if place.kept is not None:
        place.kept.put(key, output)
    return found


def _run(
    plan: ImagePlan, contents: Contents, place: Workplace, sandbox: Sandbox, tolerance: float
) -> tuple[bytes, str | None]:
    """What the conversion printed, and why it ended otherwise than it should."""
    from mpack.builders.embedded import EmbeddedBuilder
    from mpack.sandbox.codecache import CodeCache
    from mpack.sandbox.compiler import SandboxCompiler

    compiler = SandboxCompiler(None, CodeCache.default())  # this image has no byte code
    image = EmbeddedBuilder(place.store, place.bases, place.index, compiler).build(plan, contents)
    try:
        with sandbox.open(image) as box:
            return _ask(box, tolerance)
    finally:
        record = place.store.find_record(image.digest or image.id)
        if record is not None and not record.names:
            place.store.forget(record.digest)


def _ask(box: Box, tolerance: float) -> tuple[bytes, str | None]:
    done = box.run(["--tolerance", repr(tolerance)], entrypoint=_CONVERT, timeout=TIME_LIMIT)
    if done.returncode == 0:
        return done.stdout, None
    faults = {
        _TIMED_OUT: f"it was not converted within {TIME_LIMIT:.0f} s",
        _TOO_MUCH: "the graph is too large for the sandbox to hand out",
        _KILLED: f"the conversion was killed, most likely for more than the sandbox's {memory_limit() / 1e9:.1f} GB "
        "of memory",
    }
    last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
    return b"", faults.get(done.returncode, f"the conversion ended with {done.returncode}: {last[:300]}")
