"""SLSA provenance v1: how an image was built, whole enough to build it again. Nothing in it varies between two builds.

It holds no secret and no host path: of a local artifact only the file name is told, of a URL not its query.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mpack import __version__
from mpack.artifact.limits import Limits
from mpack.env.lockfile import LockEntry
from mpack.errors import InputError
from mpack.oci.blobs import is_digest, sha256_digest
from mpack.oci.image import OciImage, canonical_json
from mpack.oci.referrer import Attachment
from mpack.plan import PLATFORMS, ImagePlan, LockedPackage
from mpack.records import dataclass
from mpack.stores.model import Origin

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://mpack.dev/provenance/build/v1"
BUILDER = "https://mpack.dev/builder/"
IN_TOTO = "application/vnd.in-toto+json"
#: A lock beside its statement.
LOCK = "application/vnd.mpack.lock.v1+json"
#: The distributions whose versions decide what is built.
DISTRIBUTIONS = ("mpack", "mpack-runtime")
_BUILDERS = ("embedded", "docker", "buildah")


@dataclass(frozen=True)
class Parameters:
    """What the user decided: everything a rebuild needs to be told besides the artifact's bytes and the lock.

    `artifact` is a file name or a URL without query, `artifact_digest` the artifact's "sha256:…"; `template` the name
    and SHA-256 of a Dockerfile template of the user's own. `limits` are those of `mpack.artifact.limits`.
    """

    artifact: str
    artifact_digest: str
    packager: str
    arguments: Mapping[str, str]
    base: str | None
    builder: str
    platform: str
    python: str | None
    trim: bool
    allow_vcs: bool
    tolerance: float | None
    trust_modules: tuple[str, ...]
    trust_pickle: bool
    keep_mlflow: bool
    gpu: bool
    limits: Mapping[str, int]
    template: Mapping[str, str] | None
    optimize: str | None = None
    conda: bool = False


@dataclass(frozen=True)
class Provenance:
    """How an image was built. `spec` is the digest of what the packager wanted, `builder` which one built it,
    `versions` of mpack's distributions, `materials` all that went in, as in-toto's resource descriptors, `conversion`
    the lock of what converted the model."""

    parameters: Parameters
    lock: LockEntry
    spec: str
    builder: str
    versions: Mapping[str, str]
    materials: tuple[Mapping[str, Any], ...]
    conversion: LockEntry | None = None

    def predicate(self) -> dict[str, Any]:
        """SLSA's `predicate`."""
        more = {} if self.conversion is None else {"conversion": self.conversion.to_json()}
        return {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    **asdict(self.parameters),
                    "trust_modules": list(self.parameters.trust_modules),
                },
                "internalParameters": {"lock": _folded(self.lock.to_json()), "spec": self.spec, **more},
                "resolvedDependencies": [dict(item) for item in self.materials],
            },
            "runDetails": {"builder": {"id": BUILDER + self.builder, "version": dict(self.versions)}},
        }

    @classmethod
    def from_predicate(cls, data: Any, parts: Iterable[bytes] = ()) -> Provenance:
        """The inverse of `predicate`; a lock that is told by its digest is among `parts`.

        Raises InputError provenance-invalid for what mpack does not write.
        """
        try:
            definition, details = data["buildDefinition"], data["runDetails"]
            if definition["buildType"] != BUILD_TYPE:
                raise ValueError(f"its build type is {definition['buildType']!r}")
            given, inner = definition["externalParameters"], definition["internalParameters"]
            parameters = Parameters(**{**given, "trust_modules": tuple(given["trust_modules"])})
            _check(parameters)
            identifier = str(details["builder"]["id"])
            if identifier not in {BUILDER + name for name in _BUILDERS}:
                raise ValueError(f"its builder is {identifier!r}")
            versions = dict(details["builder"]["version"])
            if set(versions) != set(DISTRIBUTIONS) or not all(isinstance(value, str) for value in versions.values()):
                raise ValueError(f"its versions are not those of {' and '.join(DISTRIBUTIONS)}")
            if not is_digest(inner["spec"]):
                raise ValueError(f"{inner['spec']!r} is no digest")
            if (parameters.optimize is None) != ("conversion" not in inner):
                raise ValueError("a conversion and its lock go together")
            return cls(
                parameters,
                LockEntry.from_json(_unfolded(_found(inner["lock"], parts))),
                inner["spec"],
                identifier.removeprefix(BUILDER),
                versions,
                tuple(dict(item) for item in definition["resolvedDependencies"]),
                LockEntry.from_json(inner["conversion"]) if "conversion" in inner else None,
            )
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            why = f"the field {error} is missing" if isinstance(error, KeyError) else str(error)
            raise InputError(
                "provenance-invalid",
                f"The provenance is not one that mpack {__version__} can build from: {why}.",
                "Only images that mpack built can be built again, by the same version.",
            ) from error

    def model_files(self) -> dict[str, str]:
        """Path in the image -> SHA-256 (hex) of the model's files."""
        return {
            str(item["name"]): str(item["digest"]["sha256"])
            for item in self.materials
            if str(item.get("name", "")).startswith("/") and "sha256" in (item.get("digest") or {})
        }

    def attachment(self, image: OciImage, *, apart: bool) -> Attachment:
        """The in-toto statement about an image of the store: by its manifest, and by its id for who has no manifest.

        `apart`: the lock, which is most of it and the same for a model that was trained again, is a part by itself.
        """
        predicate = self.predicate()
        parts: tuple[tuple[str, bytes], ...] = ()
        if apart:
            inner = predicate["buildDefinition"]["internalParameters"]
            lock = canonical_json(inner["lock"])
            inner["lock"], parts = {"digest": sha256_digest(lock)}, ((LOCK, lock),)
        names = {"manifest": image.digest, "config": image.id}
        statement = {
            "_type": STATEMENT,
            "subject": [
                {"name": f"{image_name(image)} ({kind})", "digest": {"sha256": digest.removeprefix("sha256:")}}
                for kind, digest in names.items()
            ],
            "predicateType": PREDICATE,
            "predicate": predicate,
        }
        notes = (("in-toto.io/predicate-type", PREDICATE),)
        return Attachment("provenance", IN_TOTO, canonical_json(statement), notes, parts)


def make_provenance(
    parameters: Parameters,
    plan: ImagePlan,
    lock: LockEntry,
    spec: str,
    builder: str,
    versions: Mapping[str, str],
    conversion: LockEntry | None = None,
    origin: Origin | None = None,
) -> Provenance:
    """The provenance of a plan that was built; `origin`: where the artifact was fetched from."""
    materials = (*_materials(plan), *(() if origin is None else (_fetched(origin, parameters.artifact_digest),)))
    return Provenance(parameters, lock, spec, builder, versions, materials, conversion)


def read_statement(data: bytes, digests: Container[str | None], parts: Iterable[bytes] = ()) -> Provenance:
    """The provenance in a statement about an image with one of these digests; `parts` stand beside it.

    Raises InputError provenance-invalid.
    """
    try:
        statement = json.loads(data)
        if statement["_type"] != STATEMENT or statement["predicateType"] != PREDICATE:
            raise ValueError("another kind of statement")
        subjects = [f"sha256:{item['digest']['sha256']}" for item in statement["subject"]]
        predicate = statement["predicate"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _invalid(f"it is not SLSA provenance v1 ({error})") from error
    if not any(subject in digests for subject in subjects):
        raise _invalid(f"it is about another image ({', '.join(subjects) or 'none'})")
    return Provenance.from_predicate(predicate, parts)


def image_name(image: OciImage) -> str:
    """ "name:version" of the model in an image by its labels; the beginning of its id without any."""
    title, version = (image.labels.get(f"org.opencontainers.image.{key}") for key in ("title", "version"))
    return f"{title}:{version}" if title and version else title or image.id[7:19]


def _folded(lock: dict[str, Any]) -> dict[str, Any]:
    """A lock entry whose byte code's sources, most of it, are told by directory, in their order."""
    if not lock["bytecode"]:
        return lock
    groups = groupby(lock["bytecode"]["sources"], key=lambda path: path.rpartition("/")[0])
    sources = [{"directory": folder, "files": [path.rpartition("/")[2] for path in paths]} for folder, paths in groups]
    return {**lock, "bytecode": {**lock["bytecode"], "sources": sources}}


def _found(lock: dict[str, Any], parts: Iterable[bytes]) -> dict[str, Any]:
    """The lock itself, where it is told by its digest. Raises ValueError if it is not there."""
    if set(lock) != {"digest"}:
        return lock
    for data in parts:
        if sha256_digest(data) == lock["digest"]:
            found: dict[str, Any] = json.loads(data)
            return found
    raise ValueError("its lock is not beside it")


def _unfolded(lock: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `_folded`."""
    if not lock["bytecode"]:
        return lock
    groups = lock["bytecode"]["sources"]
    sources = [f"{group['directory']}/{name}" for group in groups for name in group["files"]]
    return {**lock, "bytecode": {**lock["bytecode"], "sources": sources}}


def template_of(path: Path | None) -> dict[str, str] | None:
    """What is recorded of a Dockerfile template."""
    if path is None:
        return None
    return {"name": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _materials(plan: ImagePlan) -> Iterator[dict[str, Any]]:
    base = plan.base.digest.removeprefix("sha256:")
    yield {"name": plan.base.reference, "digest": {"sha256": base}}
    for package in plan.environment.to_install:
        for found in package.hashes or ("",):
            digest = {"digest": {"sha256": found.removeprefix("sha256:")}} if found else {}
            yield {"name": f"{package.name}=={package.version}", **_uri(package), **digest}
    for item in plan.environment.conda.packages if plan.environment.conda else ():
        about = f"build={item.build}&channel={quote(item.channel)}&subdir={item.subdir}"
        uri = f"pkg:conda/{item.name}@{item.version}?{about}"
        yield {"name": item.file, "uri": uri, "digest": {"sha256": item.sha256}}
    for tree in plan.trees:
        if tree.kind == "model":
            for file in tree.files:
                yield {"name": f"{tree.target}/{file.path}", "digest": {"sha256": file.sha256}}


def _fetched(origin: Origin, digest: str) -> dict[str, Any]:
    """The artifact as a store had it: of a single file with its own digest, of several with the artifact's."""
    notes = {key: value for key, value in {"version": origin.version, **origin.facts}.items() if value}
    sha256 = origin.sha256 or digest.removeprefix("sha256:")
    return {"uri": origin.uri, "digest": {"sha256": sha256}, **({"annotations": notes} if notes else {})}


def _uri(package: LockedPackage) -> dict[str, str]:
    if package.source == "index":
        return {"uri": f"pkg:pypi/{package.name}@{package.version}"}
    return {"uri": package.url} if package.url and "://" in package.url else {}


def _check(given: Parameters) -> None:
    """Raises ValueError for a parameter of another type or form than mpack writes."""
    text = (str, type(None))
    wanted: dict[str, tuple[type, ...]] = {
        **dict.fromkeys(("artifact", "artifact_digest", "packager", "builder", "platform"), (str,)),
        **dict.fromkeys(("base", "python"), text),
        **dict.fromkeys(("trim", "allow_vcs", "trust_pickle", "keep_mlflow", "gpu", "conda"), (bool,)),
        "tolerance": (int, float, type(None)),
        "template": (dict, type(None)),
        **dict.fromkeys(("arguments", "limits"), (dict,)),
    }
    for name, types in wanted.items():
        if not isinstance(getattr(given, name), types):
            raise ValueError(f"{name} is of another type")
    if not all(isinstance(value, str) for value in (*given.arguments.values(), *given.trust_modules)):
        raise ValueError("an argument is no text")
    if given.platform not in PLATFORMS or given.builder not in ("auto", *_BUILDERS):
        raise ValueError(f"{given.platform!r} is no platform or {given.builder!r} no builder of mpack's")
    if given.optimize not in (None, "onnx"):
        raise ValueError(f"{given.optimize!r} is nothing that mpack converts to")
    if not is_digest(given.artifact_digest):
        raise ValueError(f"{given.artifact_digest!r} is no digest")
    if given.python is not None and not re.fullmatch(r"\d+(\.\d+){1,2}", given.python):
        raise ValueError(f"{given.python!r} is no version of Python")
    if given.tolerance is not None and not 0 <= given.tolerance < math.inf:
        raise ValueError("the tolerance is no number that can be one")
    if set(given.limits) != {item.name for item in fields(Limits)}:
        raise ValueError("the limits are others")
    if not all(type(value) is int and value > 0 for value in given.limits.values()):
        raise ValueError("a limit is no number")
    if given.template is not None and not (
        set(given.template) == {"name", "sha256"} and all(isinstance(value, str) for value in given.template.values())
    ):
        raise ValueError("the template is something else")


def _invalid(why: str) -> InputError:
    return InputError(
        "provenance-invalid", f"The provenance cannot be used: {why}.", "Take it from where mpack put the image."
    )
