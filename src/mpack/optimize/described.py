"""An artifact with its packager's spec, as a build goes on with it after its model was converted, or was not."""

from __future__ import annotations

from dataclasses import replace

from mpack.describe import Described, packager_faults
from mpack.env.lockfile import LockFile, lock_path
from mpack.errors import UsageError, VerificationError
from mpack.optimize.flow import Workplace, optimize
from mpack.optimize.kept import Conversions
from mpack.optimize.outcome import Outcome
from mpack.pipeline import BuildRequest, Workshop
from mpack.progress import Progress


def optimized(
    request: BuildRequest, found: Described, workshop: Workshop, progress: Progress, *, anew: bool = False
) -> tuple[BuildRequest, Described, Outcome]:
    """What to build instead, and what came of the conversion; `anew`: without what earlier builds converted.

    Raises UsageError packager-unfit, VerificationError not-optimized where the user wants no other image, and what
    `optimize` raises.
    """
    packager = found.packager
    if not getattr(packager, "optimizes", False):
        raise UsageError(
            "packager-unfit",
            f"The packager {packager.name} makes no images of converted models.",
            "Leave out --optimize, or choose docker-rest or docker-cli.",
        )
    assert found.scratch is not None
    path = request.lock or lock_path(request.location)
    lock = LockFile({}) if request.update_lock else LockFile.read(path)
    # Where the lock tells of a converted model it must tell what converted it; else perhaps nothing could.
    if request.lock is not None and any(f" optimize={request.optimize}" in key for key in lock.entries):
        lock = lock.require()
    kept = None if anew else Conversions.default()
    place = Workplace(workshop.store, workshop.docker, workshop.bases, workshop.index, kept, found.scratch)
    base = found.arguments.dockerfileBaseImage
    if found.spec.conda is not None:
        raise UsageError(
            "packager-unfit",
            "A model is converted in an environment of a Python index alone, and this one needs conda's packages.",
            "Leave out --optimize.",
        )
    made = optimize(found.artifact, place, request.options, lock, progress, base=base, tolerance=request.tolerance)
    outcome = made.outcome
    if outcome.status == "kept":
        if request.optimize_strict:
            raise VerificationError(
                "not-optimized",
                f"The model was not converted to ONNX: {outcome.reason}.",
                "Leave out --optimize-strict to package it as it is.",
            )
        progress.warn(f"the model is packaged as it is, not as ONNX: {outcome.reason}")
        return request, found, outcome
    progress.say(f"converted to ONNX: {outcome.rows} rows answered alike, {outcome.max_rel_diff:.2g} apart at most")
    if outcome.lost:
        progress.say(f"the converted model {outcome.lost}")
    with packager_faults(packager.name):
        spec = packager.spec(made.artifact, found.arguments)
    changed = replace(found, artifact=made.artifact, spec=spec, conversion=made.conversion)
    return replace(request, options=replace(request.options, optimize=request.optimize)), changed, outcome
