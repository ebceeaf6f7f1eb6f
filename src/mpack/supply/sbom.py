"""The SBOM of an image: CycloneDX 1.6 as JSON, from what its files tell and, where it is known, from its lock.

The same image and lock give the same bytes: the serial number is made of the image's id, and there is no timestamp.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mpack import __version__
from mpack.oci.image import OciImage, canonical_json
from mpack.oci.referrer import Attachment
from mpack.supply.facts import Facts, Package
from mpack.supply.provenance import Provenance, image_name

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

CYCLONEDX = "application/vnd.cyclonedx+json"
_SERIAL = uuid.UUID("6f8f5b0e-2a3b-5c1d-9f0a-6d7061636b21")
_PREFIX = "dev.mpack"


def make_sbom(image: OciImage, facts: Facts, models: Mapping[str, str], provenance: Provenance | None) -> Attachment:
    """The SBOM of an image; `models` are its model's files (path in the image -> SHA-256 in hex)."""
    from cyclonedx.model.bom import Bom
    from cyclonedx.output.json import JsonV1Dot6

    root = _image(image)
    parts = [*_packages(facts, provenance), *_own(image, provenance), *_model(image, models)]
    bom = Bom(components=parts, serial_number=uuid.uuid5(_SERIAL, image.id))
    bom.metadata.component = root
    bom.metadata.tools.components.add(_tool())
    bom.register_dependency(root, parts)
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    document["metadata"].pop("timestamp", None)  # the library knows no document without
    return Attachment("sbom", CYCLONEDX, canonical_json(document))


def about(document: bytes, image: OciImage) -> bool:
    """True if a CycloneDX document is one that `make_sbom` wrote for this image."""
    try:
        return str(json.loads(document)["serialNumber"]) == uuid.uuid5(_SERIAL, image.id).urn
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def _image(image: OciImage) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType

    name, _, version = image_name(image).partition(":")
    return Component(
        type=ComponentType.CONTAINER,
        name=name,
        version=version or None,
        bom_ref="image",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=image.digest.removeprefix("sha256:"))],
        properties=[
            Property(name=f"{_PREFIX}:image.id", value=image.id),
            Property(name=f"{_PREFIX}:platform", value=image.platform),
        ],
    )


def _tool() -> Component:
    from cyclonedx.model.component import Component, ComponentType

    return Component(type=ComponentType.APPLICATION, name="mpack", version=__version__, bom_ref="mpack")


def _packages(facts: Facts, provenance: Provenance | None) -> Iterator[Component]:
    """The packages that the image's files tell of, with the hashes of those that the lock has."""
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType

    locked = {(item.name, item.version): item for item in provenance.lock.environment.packages} if provenance else {}
    seen: set[str] = set()
    for package in facts.packages:
        purl = _purl(package, facts)
        reference = str(purl) if str(purl) not in seen else f"{purl}#{package.place}"
        seen.add(str(purl))
        lock = locked.get((package.name, package.version)) if package.kind == "pypi" else None
        # Of several hashes only one is that of the wheel that was installed.
        hashes = lock.hashes if lock is not None and lock.source != "base" and len(lock.hashes) == 1 else ()
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
    from packageurl import PackageURL

    if package.kind == "pypi":
        return PackageURL("pypi", name=package.name, version=package.version)
    system = facts.system or "debian"
    qualifiers = {"arch": package.architecture}
    if facts.system_version:
        qualifiers["distro"] = f"{system}-{facts.system_version}"
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

    base = image.labels.get("org.opencontainers.image.base.name")
    digest = image.labels.get("org.opencontainers.image.base.digest", "")
    if base:
        hashes = [HashType(alg=HashAlgorithm.SHA_256, content=digest.removeprefix("sha256:"))] if digest else []
        yield Component(type=ComponentType.CONTAINER, name=base, bom_ref="base", hashes=hashes)
    if provenance is not None:
        version = provenance.lock.base.python_version
        yield Component(type=ComponentType.PLATFORM, name="python", version=version, bom_ref="python")
    if f"{_PREFIX}.packager" in image.labels:
        own = provenance.versions.get("mpack-runtime") if provenance else None
        yield Component(type=ComponentType.LIBRARY, name="mpack-runtime", version=own, bom_ref="mpack-runtime")


def _model(image: OciImage, files: Mapping[str, str]) -> Iterator[Component]:
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType

    if not files:
        return
    name, _, version = image_name(image).partition(":")
    artifact = image.labels.get(f"{_PREFIX}.artifact.digest")
    yield Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=name,
        version=version or None,
        bom_ref="model",
        properties=[Property(name=f"{_PREFIX}:artifact.digest", value=artifact)] if artifact else [],
        components=[
            Component(
                type=ComponentType.FILE,
                name=path,
                bom_ref=f"file:{path}",
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
            )
            for path, digest in files.items()
        ],
    )
