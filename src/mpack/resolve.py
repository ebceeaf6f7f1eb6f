"""resolve(spec) -> plan: the base by digest, the environment locked with hashes. The only step that asks the index."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from mpack.env.lockfile import LockEntry, LockFile, LockInputs, requirement_lines
from mpack.env.lockpath import is_conda_lock
from mpack.errors import EnvironmentFault, InputError
from mpack.oci.layer import ENCODER
from mpack.plan import CONDA, BaseImage, Bytecode, Environment, ImagePlan, below_venv
from mpack.records import dataclass
from mpack.request import ResolveOptions as ResolveOptions
from mpack.spec import ImageSpec

if TYPE_CHECKING:
    from pathlib import Path

    from mpack.bases import Bases
    from mpack.conda.condalock import CondaPins
    from mpack.env.index import IndexSettings
    from mpack.env.pins import Pins


@dataclass(frozen=True)
class Resolution:
    """A plan, and the lock entry that makes it again. `fresh`: resolved now, or locked and not built since, so its byte
    code is still to be learnt."""

    plan: ImagePlan
    entry: LockEntry
    fresh: bool


def lock_inputs(spec: ImageSpec, options: ResolveOptions) -> LockInputs:
    """What a lock entry for this spec is made for."""
    return LockInputs(
        packager=spec.packager,
        platform=options.platform,
        python=minor_of(options.python or spec.python),
        base=spec.base.public(),
        trim=options.trim,
        optimize=options.optimize,
        requirements=(*requirement_lines(spec.requirements), *(spec.conda.lines if spec.conda else ())),
        conda=spec.conda is not None,
    )


def resolve(
    spec: ImageSpec,
    options: ResolveOptions,
    *,
    bases: Bases,
    index: IndexSettings,
    lock: LockFile,
    pins: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Resolution:
    """The plan of a spec: from the lock where it has an entry, else from the base at hand and the index. `pins` is a
    pylock.toml or a conda-lock.yml that both must agree with.

    Raises InputError lock-mismatch when the entry was made for other requirements or a closed lock has none, and what
    `Bases.pick`, `Bases.locked`, `read_pins` and `lock_environment` raise.
    """
    inputs = lock_inputs(spec, options)
    conda_pins = _conda_pins(pins, options.platform)
    pins = None if conda_pins else pins
    entry = lock.find(inputs)
    if entry is not None:
        base = bases.locked(entry.base)
        spec = fitting(spec, base, bases)
        entry.check(lock_inputs(spec, options))
        if entry.encoder != ENCODER:
            raise EnvironmentFault(
                "lock-mismatch",
                f"The lock was made with the layer encoder {entry.encoder}; this machine has {ENCODER}: "
                "the same image cannot be made.",
                f"Install {entry.encoder}, or accept another digest with --update-lock.",
            )
        check_consent(entry, options)
        if conda_pins is not None:
            conda_pins.require(entry.environment)
        if pins is not None:
            _read_pins(pins, below_venv(base, entry.environment.conda)).require(entry.environment)
        return Resolution(_plan(spec, options.platform, base, entry.environment, entry.bytecode), entry, entry.draft)
    from mpack.env.lock import lock_environment

    if lock.entries and lock.path is not None:
        say(f"{lock.path.name} has no entry for {inputs.key}: resolving one beside the {len(lock.entries)} there")
    if spec.conda is not None:
        from mpack.conda.ground import pick_with_conda

        base, conda, provided = pick_with_conda(spec, options, inputs.python, bases, conda_pins, say)
    else:
        base, conda = bases.pick(inputs.python, options.platform, spec.base), None
        provided = bases.packages(base)
    spec = fitting(spec, base, bases)
    if spec.conda is None and conda is not None:
        conda, provided = None, bases.packages(base)
    own, below = minor_of(spec.python), below_venv(base, conda)
    if own is not None and options.python is not None and own != below.minor:
        say(f"the model was trained on Python {own}; the image has {below.minor}, as --python asks")
    pinned = _read_pins(pins, below) if pins is not None else None
    environment = lock_environment(
        spec.requirements,
        python=below.python_version,
        platform=options.platform,
        index=index,
        provided=provided,
        relax=options.python is not None and own is not None and own != below.minor,
        allow_vcs=options.allow_vcs,
        contents=spec.contents,
        pins=pinned,
    )
    if pinned is not None:
        pinned.require(environment)
        if beyond := pinned.beyond(environment):
            say(f"not in {pinned.name}, so resolved and locked now: {', '.join(beyond)}")
    environment = replace(environment, trim=options.trim, conda=conda)
    if conda_pins is not None:
        conda_pins.require(environment)
    lines = lock_inputs(spec, options).requirements
    new = LockEntry(inputs.key, lines, base, environment, None, ENCODER, draft=True)
    return Resolution(_plan(spec, options.platform, base, environment, None), new, True)


def _conda_pins(path: Path | None, platform: str) -> CondaPins | None:
    if path is None or not is_conda_lock(path):
        return None
    from mpack.conda.condalock import CondaPins

    return CondaPins.read(path, platform)


def _read_pins(path: Path, base: BaseImage) -> Pins:
    from mpack.env.pins import read_pins

    return read_pins(path, base)


def fitting(spec: ImageSpec, base: BaseImage, bases: Bases) -> ImageSpec:
    """The first variant that the base has the file for, else the spec itself."""
    return next((item.spec for item in spec.variants if bases.has(base, item.where_base_has)), spec)


def check_consent(entry: LockEntry, options: ResolveOptions) -> None:
    """A lock is no consent: whoever brings the model may have brought the lock as well."""
    built = [package.name for package in entry.environment.to_install if package.source == "vcs"]
    if built and not options.allow_vcs:
        raise InputError(
            "requirements-invalid",
            f"The lock takes {', '.join(built)} from git: its build would run code of the repository on this machine.",
            "Consent with --allow-vcs, or put a wheel of it into the artifact.",
        )


def with_bytecode(resolution: Resolution, bytecode: Bytecode | None) -> Resolution:
    """The same resolution with the list of modules to byte-compile, or without any for good."""
    entry = replace(resolution.entry, bytecode=bytecode, draft=False)
    return Resolution(replace(resolution.plan, bytecode=bytecode), entry, resolution.fresh)


def minor_of(version: str | None) -> str | None:
    """ "3.11.7" -> "3.11"; None stays None. Raises InputError artifact-invalid on anything else."""
    if version is None:
        return None
    parts = version.strip().split(".")
    if len(parts) < 2 or not all(part.isdigit() for part in parts[:2]):
        raise InputError(
            "artifact-invalid",
            f"The Python version {version!r} is not of the form X.Y or X.Y.Z.",
            "Say which one to use: --python 3.11.",
        )
    return ".".join(parts[:2])


def _plan(
    spec: ImageSpec, platform: str, base: BaseImage, environment: Environment, bytecode: Bytecode | None
) -> ImagePlan:
    labels = {
        "org.opencontainers.image.base.name": base.reference,
        "org.opencontainers.image.base.digest": base.digest,
        "dev.mpack.lock.digest": environment.digest,
    }
    if environment.relaxed:
        labels["dev.mpack.relaxed"] = ", ".join(environment.relaxed)
    config = spec.config
    if environment.conda is not None:
        config = replace(config, env=tuple(sorted((*config.env, ("CONDA_PREFIX", CONDA)))))
    return ImagePlan(
        packager=spec.packager,
        model_name=spec.model_name,
        model_version=spec.model_version,
        platform=platform,
        base=base,
        environment=environment,
        bytecode=bytecode,
        trees=spec.trees,
        config=config.add_labels(labels),
    )
