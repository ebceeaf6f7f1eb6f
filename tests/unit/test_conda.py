"""conda.yaml under the names of a Python index."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mpack.artifact.conda import parse_conda, translated
from mpack.errors import InputError
from mpack.testing.trees import tree_of_files


def lines(*dependencies: str) -> list[str]:
    """The requirements of an environment with these dependencies."""
    text = "name: x\nchannels: [conda-forge]\ndependencies:\n" + "".join(f"- {item}\n" for item in dependencies)
    return [item.line for item in parse_conda(text, "conda.yaml").requirements]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("numpy", "numpy"),
        ("numpy=1.26", "numpy==1.26.*"),
        ("numpy==1.26.4", "numpy==1.26.4"),
        ("numpy =1.26.4", "numpy==1.26.4.*"),
        ("numpy>=1.20,<2", "numpy<2,>=1.20"),
        ("numpy >=1.20, <2", "numpy<2,>=1.20"),
        ("numpy=1.26.4=py311h64a7726_0", "numpy==1.26.4"),
        ("numpy 1.26.4 py311h64a7726_0", "numpy==1.26.4"),
        ("numpy 1.26.*", "numpy==1.26.*"),
        ("numpy=1.26.*", "numpy==1.26.*"),
        ("numpy!=1.24", "numpy!=1.24"),
        ("numpy[version='>=1.20']", "numpy>=1.20"),
        ("conda-forge::numpy=1.26", "numpy==1.26.*"),
        ("numpy=*", "numpy"),
        ("pytorch=2.3.0", "torch==2.3.0.*"),
        ("py-xgboost-cpu==2.1.1", "xgboost==2.1.1"),
        ("opencv", "opencv-python-headless"),
        ("msgpack-python=1.0", "msgpack==1.0.*"),
        ("typing_extensions", "typing-extensions"),
    ],
)
def test_translated(entry: str, expected: str) -> None:
    """Names and versions as a Python index has them."""
    assert lines(f'"{entry}"') == [expected]


def test_whole_file(tmp_path: Path) -> None:
    """Python, the pip section with its own rules, and a note of what is no Python package."""
    text = """
name: mlflow-env
channels: [conda-forge]
dependencies:
- python=3.9.18
- pip<=23
- libgcc-ng=13
- openssl
- mkl
- scikit-learn=1.3.2
- pip:
  - mlflow==2.9.2
  - -r more.txt
  - pywin32==306
prefix: /home/x
"""
    tree = tree_of_files(tmp_path, {"env/more.txt": "shap"})
    found = parse_conda(text, "env/conda.yaml", tree, "env")
    assert found.python == "3.9.18"
    assert [item.line for item in found.requirements] == ["scikit-learn==1.3.2.*", "mlflow==2.9.2", "shap"]
    assert any("libgcc-ng, mkl, openssl, pip" in finding.message for finding in found.findings)


@pytest.mark.parametrize(
    ("entry", "python"),
    [("python=3.11", "3.11"), ("python>=3.8,<3.12", "3.8"), ("python", None), ("python==3.10.2", "3.10.2")],
)
def test_python(entry: str, python: str | None) -> None:
    """The Python version, in each form."""
    assert parse_conda(f"dependencies: ['{entry}']", "conda.yaml").python == python


@pytest.mark.parametrize("name", ["r-base", "gdal", "my-company-tools=1.0", "mine::numpy", "https://x.org/c::numpy"])
def test_needs_conda(name: str) -> None:
    """A package that no index is known to have, or of a channel of its own, takes all others with it, in the file's
    words; where only an index serves, the message names it, and the hint says where it belongs."""
    text = f"channels: [conda-forge, nodefaults]\ndependencies: ['python=3.11', pip, '{name}', {{pip: [idna==3]}}]"
    found = parse_conda(text, "conda.yaml")
    assert found.conda is not None and found.conda.specs == ("python=3.11", name)
    own = [name.partition("::")[0]] if "::" in name else []
    assert list(found.conda.channels) == ["conda-forge", *own]
    assert [item.line for item in found.requirements] == ["idna==3"] and found.python == "3.11"
    with pytest.raises(InputError, match=re.escape(f"conda package {name!r} has no counterpart")) as caught:
        translated(found, "conda.yaml")
    assert caught.value.code == "conda-untranslatable"
    assert "pip section" in caught.value.hint


def test_always_conda() -> None:
    """--conda leaves nothing to an index but the pip section."""
    found = parse_conda("dependencies: [numpy=1.26, openssl, {pip: [idna]}]", "conda.yaml", always=True)
    assert found.conda is not None and found.conda.specs == ("numpy=1.26", "openssl")
    assert [item.line for item in found.requirements] == ["idna"] and found.conda.channels == ()


@pytest.mark.parametrize(
    "channel",
    [
        "file:///srv/channel",
        "/srv/channel",
        "../x",
        "https://me:secret@x.org/c",
        "https://x.org/t/secret/c",
        "s3://b/c",
    ],
)
def test_channels_of_an_artifact(channel: str) -> None:
    """An artifact names channels by name or public URL: no directory of this machine, no secret, which is not told."""
    with pytest.raises(InputError, match="the channel") as caught:
        parse_conda(f"channels: ['{channel}']\ndependencies: [gdal]", "conda.yaml")
    assert caught.value.code == "requirements-invalid" and "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "it is not YAML"),
        ("[1]", "no conda environment"),
        ("dependencies: numpy", "dependencies is not a list"),
        ("dependencies: [{npm: [x]}]", "neither a package nor a pip section"),
        ("dependencies: [{pip: [1]}]", "neither a package nor a pip section"),
        ("dependencies: ['numpy=1.2|1.3']", "cannot be written for a Python index"),
        ("dependencies: ['numpy==2023c_x']", "is none that a Python index has"),
        ("dependencies: [pip: ['numpy=1']]", r"conda\.yaml pip section:1: 'numpy=1' is no requirement"),
    ],
)
def test_invalid(text: str, message: str) -> None:
    """A wrong file is refused in words."""
    with pytest.raises(InputError, match=message) as caught:
        parse_conda(text, "conda.yaml")
    assert caught.value.code == "requirements-invalid"
