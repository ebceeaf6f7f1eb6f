"""requirements.txt: what pip would take from it, and what is left out or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpack.artifact.model import Tree
from mpack.artifact.requirements import decode, parse_requirements, requirement_name
from mpack.errors import InputError
from mpack.spec import Requirement
from mpack.testing.trees import tree_of_files

WHEEL = "wheels/shop_prices-1.0-py3-none-any.whl"


def lines(text: str, tree: Tree | None = None, root: str = "") -> list[str]:
    """The requirement lines of a file."""
    return [item.line for item in parse_requirements(text, "requirements.txt", tree, root)[0]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("numpy==1.26.4  # pinned", ["numpy==1.26.4"]),
        ("# nothing\n\n   \n", []),
        ("pandas [parquet] >= 2 , < 3", ["pandas[parquet]<3,>=2"]),
        ('numpy<2; python_version < "3.12"', ['numpy<2; python_version < "3.12"']),
        ("scipy==1.11.4 \\\n  --hash=sha256:aa \\\n  --hash=sha256:bb\nnumpy", ["scipy==1.11.4", "numpy"]),
        ("numpy\\\n==1.26.4", ["numpy ==1.26.4".replace(" ", "")]),
        ("numpy\r\npandas\r\n", ["numpy", "pandas"]),
        ("numpy\nnumpy", ["numpy"]),
        ('pywin32==306; sys_platform == "win32"\nx', ["x"]),
        ("pywin32==306\nx", ["x"]),
        ("git+https://example.org/a/tools.git@v1#egg=tools&subdirectory=py", ["tools @ git+https://example.org/a/tools.git@v1#subdirectory=py"]),
        ("git+https://example.org/a/tools.git@v1", ["tools @ git+https://example.org/a/tools.git@v1"]),
        ("git+ssh://git@example.org/a/tools.git", ["tools @ git+ssh://git@example.org/a/tools.git"]),
        ("tools @ git+https://example.org/a/tools.git", ["tools @ git+https://example.org/a/tools.git"]),
        ("https://example.org/shop_prices-1.0-py3-none-any.whl", ["shop_prices @ https://example.org/shop_prices-1.0-py3-none-any.whl"]),
    ],
)  # fmt: skip
def test_lines(text: str, expected: list[str]) -> None:
    """Each form of line as PEP 508 writes it."""
    assert lines(text) == expected


def test_index_lines_are_left_out_without_their_secrets() -> None:
    """Index options give way to this machine's; a note says so and shows no credentials."""
    text = "--index-url https://user:secret@example.org/simple\n--extra-index-url=https://t0ken@example.org\n"
    text += "-f ./w\n-i x\nnumpy"
    requirements, findings = parse_requirements(text, "requirements.txt", None, "")
    assert [item.line for item in requirements] == ["numpy"]
    assert requirements[0].source == "requirements.txt:5"
    shown = "\n".join(finding.message for finding in findings)
    assert "requirements.txt:1: --index-url is left out" in shown
    assert len(findings) == 4
    assert "secret" not in shown
    assert "t0ken" not in shown


def test_files_inside_the_artifact(tmp_path: Path) -> None:
    """`-r` and `-c` are followed inside the artifact, relative to their file; a loop ends; a wheel has its hash."""
    files = {
        "m/requirements.txt": "-r base/more.txt\n-c limits.txt\nscipy\n",
        "m/base/more.txt": "numpy>=1\n-r ../requirements.txt\n-r more.txt\n",
        "m/limits.txt": "numpy<2\nnothing==1\n",
        f"m/{WHEEL}": "x",
    }
    tree = tree_of_files(tmp_path, files)
    text = files["m/requirements.txt"] + f"./{WHEEL}\nshop-prices @ ./{WHEEL}\n"
    requirements, findings = parse_requirements(text, "m/requirements.txt", tree, "m")
    wheel = f"m/{WHEEL}#sha256={tree[f'm/{WHEEL}'].sha256}"
    assert [item.line for item in requirements] == ["numpy<2,>=1", "scipy", wheel]
    assert requirement_name(requirements[2]) == "shop-prices"
    assert any("nothing" in finding.message for finding in findings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("numpy\nnumpy=1.2", r"requirements\.txt:2: 'numpy=1\.2' is no requirement"),
        ("!!!", r"requirements\.txt:1: '!!!' is no requirement"),
        ("-e .", "an editable install has no place in an image"),
        ("--editable=git+https://example.org/a.git#egg=a", "editable"),
        ("-r ../secret.txt", r"\.\./secret\.txt is not inside the artifact"),
        ("-r /etc/passwd", "not inside the artifact"),
        ("-r https://user:pw@example.org/r.txt", r"https://example\.org/r\.txt is not inside"),
        ("./missing-1.0-py3-none-any.whl", "is not a file inside the artifact"),
        ("./setup.py", "setup.py is no wheel"),
        (".", "is not a file inside the artifact"),
        ("bad.whl", "is not named as a wheel is"),
        ("x @ file:///tmp/x.whl", "is not a file inside the artifact|a path of one machine"),
        ("git+https://user:secret@example.org/x.git", "holds a password"),
        ("https://t0ken@example.org/x-1-py3-none-any.whl", "holds a password"),
        ("https://example.org/x.tar.gz", "does not tell the package's name"),
        ("--frobnicate", "the option --frobnicate is unknown"),
        ("x @ https://u:p@example.org/x.whl", "holds a password"),
    ],
)
def test_refused(text: str, message: str, tmp_path: Path) -> None:
    """What cannot be an image's requirement is refused, naming file and line and no secret."""
    tree = tree_of_files(tmp_path, {"setup.py": "", "bad.whl": ""})
    with pytest.raises(InputError, match=message) as caught:
        parse_requirements(text, "requirements.txt", tree, "")
    assert caught.value.code == "requirements-invalid"
    assert caught.value.hint
    for secret in ("secret@", "pw@", "t0ken", "u:p@"):
        assert secret not in str(caught.value)


def test_encodings() -> None:
    """UTF-8 with a mark and PowerShell's UTF-16 are read; anything else is named."""
    assert decode("numpy".encode("utf-16"), "r") == decode(b"\xef\xbb\xbfnumpy", "r") == "numpy"
    with pytest.raises(InputError, match="r: it is not UTF-8"):
        decode(b"\xe9\xff", "r")


def test_names() -> None:
    """Names are normalised."""
    assert requirement_name(Requirement("Scikit_Learn>=1", "model")) == "scikit-learn"
