"""The docs tell the truth: generated pages are fresh, links lead somewhere, packagers, verbs and errors have headings."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from mpack.cli.main import VERBS
from mpack.errors import CODES

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("base-images/**/*.md")]
    if path.is_file()
)


def generated() -> dict[str, str]:
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "scripts" / "make_docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pages: dict[str, str] = module.pages()
    return pages


def test_generated_pages_are_fresh() -> None:
    """docs/reference is what `make docs` writes now."""
    for name, text in generated().items():
        assert (ROOT / "docs" / "reference" / name).read_text("utf-8") == text, f"run `make docs`: {name} is old"


def test_headings() -> None:
    """Every error code, verb and built-in packager has a heading."""
    reference = ROOT / "docs" / "reference"
    errors, cli = (reference / "errors.md").read_text("utf-8"), (reference / "cli.md").read_text("utf-8")
    assert [code for code in CODES if f"\n## {code}\n" not in errors] == []
    assert [verb for verb in VERBS if f"\n## mpack {verb}\n" not in cli] == []
    packagers = (reference / "packagers.md").read_text("utf-8")
    assert "\n## docker-rest\n" in packagers
    assert "\n## docker-cli\n" in packagers


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links(page: Path) -> None:
    """Every relative link of a page names a file of the repository."""
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if "://" in target or target.startswith("mailto:"):
            continue
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_code_is_raised_somewhere() -> None:
    """No error code is listed that nothing raises."""
    text = "\n".join(path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py") if path.name != "errors.py")
    assert [code for code in CODES if f'"{code}"' not in text] == []


@pytest.mark.parametrize("page", [ROOT / "README.md"], ids=["README"])
def test_commands_in_readme_exist(page: Path) -> None:
    """Every `mpack VERB` and `make TARGET` of the README exists."""
    text = page.read_text("utf-8")
    makefile = (ROOT / "Makefile").read_text("utf-8")
    verbs = set(re.findall(r"^\s*\$? ?mpack ([a-z]+)", text, re.MULTILINE))
    targets = set(re.findall(r"make ([a-z]+)\b", text))
    assert verbs and verbs <= set(VERBS)
    assert targets and all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
