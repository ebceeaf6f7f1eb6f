"""SBOM and provenance: what they tell, that they are the same whenever they are made, and what damage is said to be."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from mpack.cli.main import mpack
from mpack.env.lockfile import LockEntry
from mpack.errors import InputError, UsageError
from mpack.images import stored_image
from mpack.oci.blobs import sha256_digest
from mpack.oci.compose import append_layers
from mpack.oci.image import OciImage
from mpack.oci.layer import bytes_entries
from mpack.oci.store import Store
from mpack.plan import LockedPackage
from mpack.supply.attachments import Kept, keep, kept, sbom_of
from mpack.supply.facts import model_files, read_facts
from mpack.supply.jsonfiles import prune
from mpack.supply.licenses import debian_licenses, python_licenses
from mpack.supply.lookup import find_provenance, find_sbom
from mpack.supply.provenance import Parameters, Provenance, make_provenance, read_statement
from mpack.targets import parse_output
from mpack.testing.tiny import tiny_base, tiny_plan

DEP5 = b"Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\n"
SITE = "/opt/mpack/venv/lib/python3.11/site-packages"
STATUS = b"""Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u14

Package: gone
Status: deinstall ok config-files
Version: 1
"""
BASE = {
    "/etc/os-release": b'ID=debian\nVERSION_ID="12"\n',
    "/var/lib/dpkg/status": STATUS,
    "/var/lib/dpkg/status.d/zlib1g": b"Package: zlib1g\nVersion: 1:1.2.13\nArchitecture: amd64\n",
    "/usr/share/doc/libc6/copyright": DEP5 + b"Files: *\nLicense: LGPL-2.1+ and Expat\n free text\n",
    "/usr/lib/python3/dist-packages/six-1.0.dist-info/METADATA": b"Name: six\nVersion: 1.0\nLicense: MIT\n",
}
VENV = {f"{SITE}/Numpy_Two-2.0.dist-info/METADATA": b"Name: Numpy_Two\nVersion: 2.0\nLicense-Expression: MIT OR 0BSD\n"}
HEX = "ab" * 32


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store, which the verbs use too."""
    monkeypatch.setenv("MPACK_HOME", str(tmp_path / "home"))
    return Store.default()


@pytest.fixture
def built(store: Store, tmp_path: Path) -> tuple[OciImage, Provenance]:
    """An image with Debian and Python packages and a model, and how it was built."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.bin").write_text("weights")
    base = tiny_base(store, BASE)
    plan, _ = tiny_plan(base, tmp_path / "model")
    packages = (LockedPackage("numpy-two", "2.0", (f"sha256:{HEX}",)), LockedPackage("six", "1.0", (), "base"))
    plan = replace(plan, environment=replace(plan.environment, packages=packages))
    layers = [store.write_layer(bytes_entries(VENV), kind="dependencies")]
    layers.append(store.write_layer(bytes_entries({"/opt/mpack/model/model.bin": b"weights"}), kind="model"))
    labels = {
        "dev.mpack.packager": "docker-rest",
        "org.opencontainers.image.title": "wine",
        "org.opencontainers.image.version": "1",
        "org.opencontainers.image.base.name": "tiny-base:1",
        "org.opencontainers.image.base.digest": base.digest,
    }
    image = append_layers(store, base, layers, runtime={"Labels": labels})
    store.add_image(image, ["wine:1"])
    entry = LockEntry("docker-rest linux/amd64", ("numpy-two",), plan.base, plan.environment, None, "deflate 0")
    parameters = Parameters(
        **dict.fromkeys(("trim", "allow_vcs", "trust_pickle", "keep_mlflow", "gpu"), False),  # type: ignore[arg-type]
        artifact="wine.zip",
        artifact_digest=f"sha256:{HEX}",
        packager="docker-rest",
        arguments={"port": "8080"},
        base=None,
        builder="auto",
        platform="linux/amd64",
        python=None,
        tolerance=None,
        trust_modules=("ours",),
        limits={"total": 1, "entries": 2, "ratio": 3, "ratio_free": 4},
        template=None,
    )
    made = make_provenance(parameters, plan, entry, f"sha256:{HEX}", "embedded", {"mpack": "1", "mpack-runtime": "2"})
    return image, made


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        ("License-Expression: MIT OR 0BSD\nLicense: no", ("MIT OR 0BSD",)),
        ("License: Apache 2.0", ("Apache-2.0",)),
        ("License: UNKNOWN\nClassifier: License :: OSI Approved :: MIT License", ("MIT",)),
        (f"License: {'text ' * 40}\nClassifier: License :: OSI Approved", ()),
        ("License: Copyright me\n and you\nClassifier: License :: Other", ("Other",)),
        ("Classifier: Topic :: X", ()),
    ],
)
def test_python_licenses(metadata: str, found: tuple[str, ...]) -> None:
    """An expression before a name before classifiers; a licence's text is no name."""
    assert python_licenses(Parser().parsestr(metadata)) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (DEP5 + b"License: GPL-2+\n text\n\nLicense: Expat or Apache-2.0\n", ("Apache-2.0", "GPL-2.0-or-later", "MIT")),
        (DEP5 + b"License: LGPL-2.1\n", ("LGPL-2.1-only",)),
        (DEP5 + b"License:\n text only\n", ()),
        (b"This is free text.\nLicense: GPL-2\n", ()),
        (b"\xff\xfe", ()),
    ],
)
def test_debian_licenses(text: bytes, found: tuple[str, ...]) -> None:
    """The short names of a machine-readable copyright file, as SPDX has them; nothing is guessed from free text."""
    assert debian_licenses(text) == found


def components(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Components by what they are known by."""
    return {item.get("purl") or item["bom-ref"]: item for item in document["components"]}


def test_sbom(built: tuple[OciImage, Provenance], tmp_path: Path) -> None:
    """Every package with licences, the lock's hashes, base, runtime and model; valid, and the same from a cache."""
    image, provenance = built
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = sbom_of(image, provenance).data
    assert sbom_of(image, provenance).data == data, "the second time from the readings of the first"
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(data.decode()) is None
    document = json.loads(data)
    assert "timestamp" not in document["metadata"]
    found = components(document)
    assert set(found) == {
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=amd64&distro=debian-12",
        "pkg:deb/debian/zlib1g@1:1.2.13?arch=amd64&distro=debian-12",
        "pkg:pypi/numpy-two@2.0",
        "pkg:pypi/six@1.0",
        *("base", "python", "mpack-runtime", "model"),
    }
    numpy, libc = (
        found["pkg:pypi/numpy-two@2.0"],
        found["pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=amd64&distro=debian-12"],
    )
    assert numpy["hashes"] == [{"alg": "SHA-256", "content": HEX}] and numpy["licenses"] == [
        {"expression": "MIT OR 0BSD"}
    ]
    assert [item["license"]["id"] for item in libc["licenses"]] == ["LGPL-2.1-or-later", "MIT"]
    assert "hashes" not in found["pkg:pypi/six@1.0"], "the base's copy did not come of a wheel that the lock names"
    assert found["mpack-runtime"]["version"] == "2"
    [model] = found["model"]["components"]
    assert (model["name"], model["hashes"][0]["content"]) == (
        "/opt/mpack/model/model.bin",
        model_files(image)["/opt/mpack/model/model.bin"],
    )


def test_sbom_without_provenance(built: tuple[OciImage, Provenance], store: Store) -> None:
    """An image of which nothing is remembered, one of another tool, and one that tells nothing."""
    image, _ = built
    found = components(json.loads(find_sbom("wine:1", image, store).data))
    assert {"pkg:pypi/six@1.0", "model", "base"} <= set(found) and "hashes" not in found["pkg:pypi/numpy-two@2.0"]
    foreign = tiny_base(store, {**BASE, "/x": b""})
    document = json.loads(find_sbom("foreign:1", foreign, store).data)
    assert "pkg:pypi/six@1.0" in components(document) and "model" not in components(document)
    with pytest.raises(InputError) as caught:
        find_sbom("empty:1", tiny_base(store), store)
    assert caught.value.code == "sbom-unknown"


def test_a_layer_called_otherwise_hides_nothing(store: Store) -> None:
    """Packages in a layer that a foreign image calls byte code, and a model's file in its configuration, are told."""
    layers = [
        store.write_layer(bytes_entries(VENV), kind="bytecode"),
        store.write_layer(bytes_entries({"/opt/mpack/model/evil": b"x"}), kind="config"),
        store.write_layer(bytes_entries({"/opt/mpack/model/good": b"x"}), kind="model"),
    ]
    image = append_layers(store, tiny_base(store, BASE), layers)
    found = components(json.loads(find_sbom("foreign:1", image, store).data))
    assert {"pkg:pypi/numpy-two@2.0", "pkg:pypi/six@1.0"} <= set(found)
    assert [item["name"][17:] for item in found["model"]["components"]] == ["evil", "good"]


def test_hostile_metadata(store: Store) -> None:
    """Whatever an image's files and labels hold, the document is valid, and its references tell parts apart."""
    lines = [
        b"Name: \xff\xfe\nVersion: 1\nLicense: \xff\n",
        b"Name: a b/../c\nVersion: 1 2\nLicense: (((\n",
        b"Name: y\x00z\nVersion: \x1b[31m\nLicense-Expression: MIT AND\n",
        b"Name: @\nVersion: ?#\nClassifier: License :: \xff\nClassifier: License :: AND\n",
        b"garbage",
        b"",
        *[b"Name: twice\nVersion: 1\nLicense: %d\n" % number for number in range(3)],
    ]
    files = {f"{SITE}/p{number}-1.dist-info/METADATA": text for number, text in enumerate(lines)}
    files[f"{SITE}/\udcff-1.dist-info/METADATA"] = b"Name: path\nVersion: 1\n"
    files[f"{SITE}/slashes-1.dist-info/METADATA"] = b"Name: ///\nVersion: 1\n"
    files["/var/lib/dpkg/status.d/slashes"] = b"Package: ///\nVersion: 1\n"
    files["/opt/mpack/model/\udcfe"] = b""
    files["/var/lib/dpkg/status"] = b"Package: ../../etc\nVersion: \xe9\nArchitecture: \xff a\n\n\n:::\n"
    files["/etc/os-release"] = b"ID=\xff/..\n"
    labels = {"org.opencontainers.image.title": ":\x00\ud800:", "org.opencontainers.image.base.name": "x"}
    labels["org.opencontainers.image.base.digest"] = "nonsense"
    labels["dev.mpack.artifact.digest"] = 1  # type: ignore[assignment]
    image = append_layers(store, tiny_base(store, files), [], runtime={"Labels": labels})
    data = find_sbom("x:1", image, store).data
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(data.decode()) is None
    references = [item["bom-ref"] for item in json.loads(data)["components"]]
    assert len(set(references)) == len(references)
    assert {"pypi:///@1", "deb:///@1", "pkg:pypi/path@1"} <= set(references)
    assert [name for name in references if "twice" in name] == [f"pkg:pypi/twice@1{tail}" for tail in ("", "#2", "#3")]


def test_a_damaged_reading_is_made_again(built: tuple[OciImage, Provenance], tmp_path: Path) -> None:
    """What a crash left in the cache is read from the image again."""
    first = read_facts(built[0], tmp_path / "cache", by_kind=True)
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(path.read_bytes()[:40])
    assert read_facts(built[0], tmp_path / "cache", by_kind=True) == first == read_facts(built[0])
    prune(tmp_path / "cache", 3600)
    assert len(list((tmp_path / "cache").iterdir())) == 2, "the base's layers, and the dependencies"
    prune(tmp_path / "cache", 0)
    assert not list((tmp_path / "cache").iterdir())


def test_a_model_trained_again_has_the_same_sbom_at_a_registry(
    built: tuple[OciImage, Provenance], store: Store, tmp_path: Path
) -> None:
    """What its subject and its provenance say is not in it; alone, a document says all."""
    first, provenance = built
    again = append_layers(store, first, [store.write_layer(bytes_entries({"/x": b"x"}), kind="config")])
    files = {"/opt/mpack/model/model.bin": HEX}
    trained = replace(provenance, materials=tuple({"name": key, "digest": {"sha256": HEX}} for key in files))
    alone = [sbom_of(image, found).data.decode() for image, found in ((first, provenance), (again, trained))]
    apart = [sbom_of(image, found, apart=True).data for image, found in ((first, provenance), (again, trained))]
    assert alone[0] != alone[1] and again.digest.removeprefix("sha256:") in alone[1] and HEX in alone[1]
    assert apart[0] == apart[1]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(apart[0].decode()) is None
    parts = {item["bom-ref"]: item for item in json.loads(apart[0])["components"]}
    assert [item["name"] for item in parts["model"]["components"]] == list(files)
    assert set(parts["model"]["components"][0]) == {"type", "bom-ref", "name"}


def test_provenance_round_trip(built: tuple[OciImage, Provenance]) -> None:
    """A statement about the image, by manifest and id, is read as what was written; another image's is refused."""
    image, provenance = built
    whole, split = (provenance.attachment(image, apart=apart) for apart in (False, True))
    ((_, lock),), data = split.parts, whole.data
    assert whole.parts == () and len(split.data) + len(lock) > len(data)
    for digests in ([image.digest], [image.id]):
        assert read_statement(data, digests) == read_statement(split.data, digests, [b"{}", lock]) == provenance
    deep = b"[" * 100_000
    forged = split.data.replace(sha256_digest(lock).encode(), sha256_digest(deep).encode())
    with pytest.raises(InputError, match="not one that mpack"):
        read_statement(forged, [image.id], [deep])
    with pytest.raises(InputError, match="lock is not beside it"):
        read_statement(split.data, [image.id], [lock + b" "])
    assert provenance.model_files() == model_files(image)
    with pytest.raises(InputError, match="about another image"):
        read_statement(data, [f"sha256:{HEX}"])


def changed(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Sets the field at a dotted path."""

    def change(data: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for name in parents:
            data = data[name]
        data[last] = value

    return change


GIVEN = "buildDefinition.externalParameters."


@pytest.mark.parametrize(
    "change",
    [
        changed("buildDefinition.buildType", "https://other"),
        changed("runDetails.builder.id", "https://other"),
        changed("runDetails", None),
        changed(f"{GIVEN}arguments", {"port": 1}),
        changed(f"{GIVEN}limits", {"total": "1"}),
        changed(f"{GIVEN}trust_modules", [1]),
        changed(f"{GIVEN}trim", "yes"),
        changed(f"{GIVEN}unknown", 1),
        changed(f"{GIVEN}limits", {}),
        changed(f"{GIVEN}limits.total", 1e30),
        changed(f"{GIVEN}limits.more", 1),
        changed(f"{GIVEN}platform", "x"),
        changed(f"{GIVEN}python", "-c"),
        changed(f"{GIVEN}tolerance", float("nan")),
        changed(f"{GIVEN}template", {"name": "x"}),
        changed(f"{GIVEN}artifact_digest", "x"),
        changed("runDetails.builder.version", {}),
        changed("runDetails.builder.version.nonsense", "1"),
        changed("buildDefinition.internalParameters.spec", "x"),
        changed("buildDefinition.internalParameters.lock.key", {}),
        changed("buildDefinition.internalParameters.lock.environment.relaxed", [1]),
        changed("buildDefinition.internalParameters.lock", {}),
        changed("buildDefinition.resolvedDependencies", [1]),
    ],
)
def test_damaged_provenance(built: tuple[OciImage, Provenance], change: Callable[[dict[str, Any]], None]) -> None:
    """What mpack does not write is told as such."""
    data = json.loads(json.dumps(built[1].predicate()))
    assert Provenance.from_predicate(data) == built[1]
    change(data)
    with pytest.raises(InputError) as caught:
        Provenance.from_predicate(data)
    assert caught.value.code == "provenance-invalid"


def test_documents_go_with_their_image(built: tuple[OciImage, Provenance], store: Store) -> None:
    """Collection keeps what is remembered of listed images; of an engine's it stays until nobody asked for long."""
    image, provenance = built
    keep(store, image.id, Kept(provenance, "/here/wine.zip"), in_store=True)
    engine = f"sha256:{HEX}"
    keep(store, engine, Kept(provenance, ""), in_store=False)
    store.gc()
    assert kept(store, image.id) == Kept(provenance, "/here/wine.zip")
    store.forget(image.digest)
    store.gc()
    assert kept(store, image.id) is None and kept(store, engine) is not None
    store.provenance.prune(3600)
    assert kept(store, engine) is not None
    store.provenance.prune(0)
    assert kept(store, engine) is None


@pytest.mark.parametrize("kind", ["oci", "oci-archive", "docker-archive"])
def test_files_beside(built: tuple[OciImage, Provenance], store: Store, tmp_path: Path, kind: str) -> None:
    """An image in a file has its documents beside it, and they are found where nothing else is remembered."""
    image, provenance = built
    keep(store, image.id, Kept(provenance, str(tmp_path / "secret-place" / "wine.zip")), in_store=True)
    place = tmp_path / "out" / "image"
    place.parent.mkdir()
    parse_output(f"{kind}:{place}").write(stored_image(image), "wine:1", store, None)
    folder = place if kind == "oci" else place.parent
    names = sorted(path.name for path in folder.iterdir() if path.name.endswith((".sbom.json", ".provenance.json")))
    stem = image.digest.replace(":", "-") if kind == "oci" else "image"
    assert names == [f"{stem}.provenance.json", f"{stem}.sbom.json"]
    text = "".join((folder / name).read_text() for name in names)
    assert str(tmp_path) not in text and "secret-place" not in text
    elsewhere = Store(tmp_path / "elsewhere")
    found = find_provenance(f"{kind}:{place}", image.id, image.digest if kind == "oci" else None, elsewhere)
    assert found == Kept(provenance, "")
    forged = json.loads((folder / f"{stem}.sbom.json").read_text())
    (folder / f"{stem}.sbom.json").write_text(json.dumps({**forged, "components": []}))
    told = set(components(json.loads(find_sbom(f"{kind}:{place}", image, elsewhere).data)))
    assert told == set(components(forged)) - {"python"}, "made of the image's files, whoever wrote a document beside it"
    parse_output(f"{kind}:{place}", attest=False).write(stored_image(image), "wine:1", store, None)
    assert [path for path in folder.iterdir() if path.name in names] == [], "none that is about another image stays"
    for text in ('{"mine": true}', "", "[]"):
        (folder / f"{stem}.sbom.json").write_text(text)
        parse_output(f"{kind}:{place}", attest=False).write(stored_image(image), "wine:1", store, None)
        with pytest.raises(UsageError, match="no sbom of mpack's"):
            parse_output(f"{kind}:{place}").write(stored_image(image), "wine:1", store, None)
        assert (folder / f"{stem}.sbom.json").read_text() == text, "a file of the user's stays as it is"


def test_sbom_command(built: tuple[OciImage, Provenance], tmp_path: Path) -> None:
    """`mpack sbom` prints the document, or writes it whole."""
    done = CliRunner().invoke(mpack, ["sbom", "wine:1"], catch_exceptions=False)
    assert json.loads(done.stdout)["bomFormat"] == "CycloneDX"
    CliRunner().invoke(mpack, ["sbom", "wine:1", "-o", str(tmp_path / "x.json")], catch_exceptions=False)
    assert (tmp_path / "x.json").read_text() == done.stdout
