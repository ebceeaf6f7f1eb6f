"""The SBOM of an image: CycloneDX 1.6 as JSON, from what its files tell and, where it is known, from its lock.

The same image and lock give the same bytes: the serial number is made of the image's id, or of what a document without
digests says, and there is no timestamp.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpack import __version__
from mpack.oci.blobs import is_digest
from mpack.oci.image import OciImage, canonical_json
from mpack.oci.referrer import Attachment
from mpack.plan import LockedPackage, below_venv
from mpack.supply.facts import Facts, Package
from mpack.supply.jsonfiles import read_json, write_json
from mpack.supply.provenance import Provenance, image_name

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

CYCLONEDX = "application/vnd.cyclonedx+json"
_SERIAL = uuid.UUID("6f8f5b0e-2a3b-5c1d-9f0a-6d7061636b21")
_PREFIX = "dev.mpack"
_PACKAGER = "dev.mpack.packager"
_ID = f"{_PREFIX}:image.id"
_ARTIFACT = f"{_PREFIX}:artifact.digest"
_BASE_NAME = "org.opencontainers.image.base.name"
_BASE_DIGEST = "org.opencontainers.image.base.digest"
#: The reference of the document's subject in it.
_IMAGE = "image"
#: Part of the key of what is kept: raise it when this module writes otherwise.
_WRITER = 2


def make_sbom(
    image: OciImage,
    facts: Facts,
    models: Mapping[str, str],
    provenance: Provenance | None,
    cache: Path | None = None,
    *,
    apart: bool = False,
) -> Attachment:
    """The SBOM of an image; `models` are its model's files (path in the image -> SHA-256 in hex).

    `apart` leaves out the digests of the image and of its model, for a document that stands beside its provenance as a
    referrer: so it is the same for a model that was trained again.

    `cache` is the directory of earlier documents: all but image and model is that of the environment, and the library
    takes longer to load than a small image to build.
    """
    document = _environment(image, facts, provenance, cache)
    document["metadata"]["component"] = _image(image)
    model = _model(image, models)
    if apart:
        _without_digests([document["metadata"]["component"], *model])
    parts = [*document["components"], *model]
    document["components"] = sorted(parts, key=lambda item: str(item["bom-ref"]))
    references = [item["bom-ref"] for item in document["components"]]
    document["dependencies"] = [{"ref": _IMAGE, "dependsOn": references}, *({"ref": item} for item in references)]
    about = hashlib.sha256(canonical_json(document)).hexdigest() if apart else image.id
    document["serialNumber"] = uuid.uuid5(_SERIAL, about).urn
    return Attachment("sbom", CYCLONEDX, canonical_json(document))


def _without_digests(parts: Iterable[dict[str, Any]]) -> None:
    """Takes the digests from an image and its model."""
    for part in parts:
        part.pop("hashes", None)
        kept = [item for item in part.pop("properties", ()) if item["name"] not in (_ID, _ARTIFACT)]
        part |= {"properties": kept} if kept else {}
        _without_digests(part.get("components", ()))


def _environment(image: OciImage, facts: Facts, provenance: Provenance | None, cache: Path | None) -> dict[str, Any]:
    """The document without image and model: packages, base, interpreter, runtime."""
    known: list[Any] = [(item.name, item.version, item.hashes, item.source) for item in _locked(provenance)]
    environment = provenance.lock.environment.conda if provenance else None
    known += [environment.to_json()] if environment else []
    own = [image.labels.get(name) for name in (_BASE_NAME, _BASE_DIGEST, _PACKAGER)]
    about = provenance and [_python_version(provenance), dict(provenance.versions)]
    key = canonical_json([_WRITER, version("cyclonedx-python-lib"), __version__, asdict(facts), known, own, about])
    path = cache and cache / f"{hashlib.sha256(key).hexdigest()}.json"
    if path is not None and (found := read_json(path)) is not None:
        return found
    made = _written([*_packages(facts, provenance), *_own(image, provenance)])
    if path is not None:
        write_json(path, made)
    return made


def _written(parts: list[Component]) -> dict[str, Any]:
    """The library's document of some parts."""
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6

    bom = Bom(components=parts)
    tool = Component(type=ComponentType.APPLICATION, name="mpack", version=__version__, bom_ref="mpack")
    bom.metadata.tools.components.add(tool)
    document: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    document["metadata"].pop("timestamp", None)  # the library knows no document without
    document.setdefault("components", [])
    return document


def _image(image: OciImage) -> dict[str, Any]:
    name, _, number = image_name(image).partition(":")
    return {
        "type": "container",
        "bom-ref": _IMAGE,
        "name": name,
        **({"version": number} if number else {}),
        "hashes": [{"alg": "SHA-256", "content": image.digest.removeprefix("sha256:")}],
        "properties": [
            {"name": _ID, "value": image.id},
            {"name": f"{_PREFIX}:platform", "value": image.platform},
        ],
    }


def _model(image: OciImage, files: Mapping[str, str]) -> list[dict[str, Any]]:
    """The model with its files; [] where there is none."""
    if not files:
        return []
    name, _, number = image_name(image).partition(":")
    artifact = image.labels.get(f"{_PREFIX}.artifact.digest")
    found: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": name,
        **({"version": number} if number else {}),
        "components": [
            {
                "type": "file",
                "bom-ref": f"file:{path}",
                "name": path,
                "hashes": [{"alg": "SHA-256", "content": digest}],
            }
            for path, digest in sorted(files.items())
        ],
    }
    if artifact:
        found["properties"] = [{"name": _ARTIFACT, "value": artifact}]
    return [found]


def _locked(provenance: Provenance | None) -> tuple[LockedPackage, ...]:
    return provenance.lock.environment.packages if provenance else ()


def _python_version(provenance: Provenance) -> str:
    return below_venv(provenance.lock.base, provenance.lock.environment.conda).python_version


def _packages(facts: Facts, provenance: Provenance | None) -> Iterator[Component]:
    """The packages that the image's files tell of, with the hashes of those that the lock has."""
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType

    locked = {(item.name, item.version): item for item in _locked(provenance)}
    environment = provenance.lock.environment.conda if provenance else None
    conda = {(item.name, item.version): item.sha256 for item in (environment.packages if environment else ())}
    seen: Counter[str] = Counter()
    for package in facts.packages:
        purl = _purl(package, facts)
        name = str(purl) if purl else f"{package.kind}:{package.name}@{package.version}"
        seen[name] += 1
        reference = name if seen[name] == 1 else f"{name}#{seen[name]}"
        lock = locked.get((package.name, package.version)) if package.kind == "pypi" else None
        # Of several hashes only one is that of the wheel that was installed.
        hashes = lock.hashes if lock is not None and lock.source != "base" and len(lock.hashes) == 1 else ()
        if package.kind == "conda" and (package.name, package.version) in conda:
            hashes = (conda[package.name, package.version],)
        yield Component(
            type=ComponentType.LIBRARY,
            name=package.name,
            version=package.version,
            bom_ref=reference,
            purl=purl,
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=item.removeprefix("sha256:")) for item in hashes],
            licenses=_licenses(package.licenses),
            properties=[Property(name=f"{_PREFIX}:place", value=package.place)],
        )


def _purl(package: Package, facts: Facts) -> Any:
    """The package's URL; None for a name that is none ("///")."""
    from packageurl import PackageURL

    system = facts.system or "debian"
    qualifiers = {"arch": package.architecture}
    if facts.system_version:
        qualifiers["distro"] = f"{system}-{facts.system_version}"
    if not package.name.strip("/"):
        return None
    if package.kind == "pypi":
        return PackageURL("pypi", name=package.name, version=package.version)
    if package.kind == "conda":
        return PackageURL("conda", name=package.name, version=package.version, qualifiers=dict(package.qualifiers))
    return PackageURL("deb", system, package.name, package.version, qualifiers)


def _licenses(names: Iterable[str]) -> list[Any]:
    """One expression, or licences by SPDX identifier or name."""
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model.license import DisjunctiveLicense

    factory = LicenseFactory()
    made = [factory.make_from_string(name) for name in names]
    if len(made) == 1:
        return made
    # A document may hold one expression and nothing beside it: of several, those that are expressions are names.
    return [
        item if isinstance(item, DisjunctiveLicense) else DisjunctiveLicense(name=name)
        for item, name in zip(made, names, strict=True)
    ]


def _own(image: OciImage, provenance: Provenance | None) -> Iterator[Component]:
    """The base image, its interpreter, and mpack's runtime."""
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    base, digest = image.labels.get(_BASE_NAME), image.labels.get(_BASE_DIGEST, "")
    if base:
        known = [HashType(alg=HashAlgorithm.SHA_256, content=digest.removeprefix("sha256:"))]
        hashes = known if is_digest(digest) else []
        yield Component(type=ComponentType.CONTAINER, name=base, bom_ref="base", hashes=hashes)
    if provenance is not None:
        python = _python_version(provenance)
        yield Component(type=ComponentType.PLATFORM, name="python", version=python, bom_ref="python")
    if _PACKAGER in image.labels:
        own = provenance.versions.get("mpack-runtime") if provenance else None
        yield Component(type=ComponentType.LIBRARY, name="mpack-runtime", version=own, bom_ref="mpack-runtime")
