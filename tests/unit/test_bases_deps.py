"""Dependency-cache images: reading the file, installing over a base, hiding what is replaced. The index is a folder."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

import pytest

from mpack.bases import Bases
from mpack.bases import deps as deps_module
from mpack.bases.deps import DEPENDENCIES_LABEL, Dependencies, build_dependency_image, read_dependencies
from mpack.env.index import IndexSettings
from mpack.errors import InputError
from mpack.oci.image import OciImage, canonical_json
from mpack.oci.layer import Entry
from mpack.oci.rootfs import read_files
from mpack.oci.store import Store
from mpack.spec import BaseWish, Requirement

SITE = "/usr/local/lib/python3.11/site-packages"


def wheel(directory: Path, name: str, version: str, modules: dict[str, str]) -> None:
    """A pure wheel in a folder that serves as the index."""
    info = f"{name}-{version}.dist-info"
    files = {
        **modules,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(text)}")
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""])
    with zipfile.ZipFile(directory / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> IndexSettings:
    """An index of two wheels; the runtime asks for one of them."""
    directory = tmp_path / "index"
    directory.mkdir()
    wheel(directory, "pinned", "2.0", {"pinned/__init__.py": "new", "pinned/added.py": ""})
    wheel(directory, "served", "1.0", {"served.py": ""})
    monkeypatch.setattr(
        deps_module, "runtime_requirements", lambda extra: (Requirement("served", "runtime", "runtime"),)
    )
    return IndexSettings(find_links=(directory.as_uri(),), no_index=True)


def base_image(store: Store, packages: dict[str, str]) -> OciImage:
    """An official-style Python with packages as pip installs them."""
    files = {"/usr/local/bin/python3.11": b"\0" + b"3.11.9\0", f"{SITE}/README.txt": b"", f"{SITE}/other.py": b""}
    for name, version in packages.items():
        info = f"{SITE}/{name}-{version}.dist-info"
        record = f"{name}/__init__.py,,\n{name}/gone.py,,\n{name}-{version}.dist-info/RECORD,,\n../../../bin/{name},,\n"
        files |= {
            f"{SITE}/{name}/__init__.py": b"old",
            f"{SITE}/{name}/gone.py": b"old",
            f"{info}/METADATA": f"Name: {name}\nVersion: {version}\n".encode(),
            f"{info}/RECORD": record.encode(),
        }
    layer = store.write_layer([Entry(path, size=len(data), source=data) for path, data in files.items()], kind="base")
    config = {"architecture": "amd64", "os": "linux", "config": {"Env": ["A=b"], "Labels": {"mine": "1"}}}
    image = store.put_image(
        canonical_json({**config, "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]}}), (layer,)
    )
    store.add_image(image, ["mine:1"], role="base")
    return image


def build(store: Store, index: IndexSettings, *lines: str) -> OciImage:
    return build_dependency_image(
        store,
        Bases(store, None, say=lambda _: None),
        index,
        Dependencies(None, tuple(Requirement(line, "model", "requirements.txt") for line in lines)),
        name="cache:1",
        python=None,
        platform="linux/amd64",
        wish=BaseWish("mine:1"),
        say=lambda _: None,
    )


def test_packages_over_a_base(tmp_path: Path, index: IndexSettings) -> None:
    """The file's packages and the runtime's are in the site directory; the base's configuration stays."""
    store = Store(tmp_path / "store")
    below = base_image(store, {})
    image = build(store, index, "pinned==2.0")
    assert store.resolve("cache:1").digest == image.digest and image.layers[0].diff_id == below.layers[0].diff_id
    assert image.labels["mine"] == "1" and DEPENDENCIES_LABEL in image.labels and image.runtime["Env"] == ["A=b"]
    bases = Bases(store, None)
    assert dict(bases.packages(bases.inspect("cache:1", "linux/amd64"))) == {"pinned": "2.0", "served": "1.0"}
    assert build(store, index, "pinned==2.0").digest == image.digest, "the same twice"


def test_replaced_packages_are_hidden(tmp_path: Path, index: IndexSettings) -> None:
    """Of a package in another version only the new version's files are left; other files of the base stay."""
    store = Store(tmp_path / "store")
    base_image(store, {"pinned": "1.0", "kept": "1.0"})
    files = read_files(build(store, index, "pinned==2.0"), lambda path: path.endswith("__init__.py"))
    assert files.read(f"{SITE}/pinned/__init__.py") == b"new" and f"{SITE}/pinned/added.py" in files
    assert f"{SITE}/pinned/gone.py" not in files and f"{SITE}/pinned-1.0.dist-info" not in files
    assert f"{SITE}/kept/gone.py" in files and f"{SITE}/other.py" in files
    assert not [path for path in files if "/.wh." in path]


def test_nothing_to_install(tmp_path: Path, index: IndexSettings) -> None:
    """A base that has every package gets a name and no layer."""
    store = Store(tmp_path / "store")
    below = base_image(store, {"pinned": "2.0", "served": "1.0"})
    assert [layer.diff_id for layer in build(store, index, "pinned").layers] == [
        layer.diff_id for layer in below.layers
    ]


def test_reading_files(tmp_path: Path) -> None:
    """requirements.txt and conda.yaml, told apart by their suffix; conda's Python is taken over."""
    requirements, conda = tmp_path / "requirements.txt", tmp_path / "conda.yaml"
    requirements.write_text("pinned==2.0  # comment\n")
    conda.write_text("dependencies:\n- python=3.11.4\n- numpy=1.26\n- pip:\n  - pinned==2.0\n")
    assert [item.line for item in read_dependencies(requirements).requirements] == ["pinned==2.0"]
    found = read_dependencies(conda)
    assert found.python == "3.11.4" and "pinned==2.0" in [item.line for item in found.requirements]


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_unreadable_file(tmp_path: Path, content: bytes | None) -> None:
    """A file that is not there or not text is the user's mistake, named."""
    path = tmp_path / "requirements.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"requirements\.txt cannot be read"):
        read_dependencies(path)


def test_other_python_is_refused(tmp_path: Path, index: IndexSettings) -> None:
    """A conda.yaml for another Python than the base's needs the user's consent."""
    store = Store(tmp_path / "store")
    base_image(store, {})
    dependencies = Dependencies("3.10.1", ())
    common = {"name": "c:1", "platform": "linux/amd64", "wish": BaseWish("mine:1"), "say": lambda _: None}
    with pytest.raises(InputError, match=r"the model needs 3\.10"):
        build_dependency_image(store, Bases(store, None), index, dependencies, python=None, **common)  # type: ignore[arg-type]
    build_dependency_image(store, Bases(store, None), index, dependencies, python="3.11", **common)  # type: ignore[arg-type]
    assert store.find("c:1") is not None
