"""The docs tell the truth: generated pages are fresh, links lead somewhere, every command and option shown exists."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path

import click
import pytest

from mpack.cli.main import VERBS
from mpack.errors import CODES
from mpack.plugins import load_packager

ROOT = Path(__file__).parents[1]
FOLDERS = (".", "docs/**", "base-images/**", "packagers/**", "fixtures/broken", "fixtures/plugins/*")
PAGES = sorted(path for folder in FOLDERS for path in ROOT.glob(f"{folder}/*.md"))


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
    assert "\n## docker-triton\n" in packagers


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links(page: Path) -> None:
    """Every relative link of a page names a file of the repository."""
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if "://" in target or target.startswith("mailto:"):
            continue
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_setting_of_the_rest_image_is_in_the_table() -> None:
    """docs/reference/settings.md has a row for each variable that the runtime's configuration reads, and no other."""
    source = (ROOT / "runtime/src/mpack_runtime/config.py").read_text("utf-8")
    read = set(re.findall(r"env(?:iron)?(?:\.get\(|, |\[)\"(MPACK_[A-Z_]+)\"", source))
    text = (ROOT / "docs/reference/settings.md").read_text("utf-8")
    assert set(re.findall(r"^\| `(MPACK_[A-Z_]+)` \|", text, re.MULTILINE)) == read


def test_every_code_is_raised_somewhere() -> None:
    """No error code is listed that nothing raises."""
    text = "\n".join(path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py") if path.name != "errors.py")
    assert [code for code in CODES if f'"{code}"' not in text] == []


def commands(text: str) -> list[list[str]]:
    """The words after `mpack` of every command in a page's code: `$ mpack …`, indented blocks, inline code."""
    found = re.findall(
        r"^(?:[$#] | {4})(?:[^#\n]*?[ &(])?mpack ([a-z][^\n#]*)|`mpack ([a-z][^`]*)`", text, re.MULTILINE
    )
    return [re.split(r"\s+", (block or inline).strip()) for block, inline in found]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    """Every verb, sub-command and option of mpack that a page shows exists."""
    text = page.read_text("utf-8")
    for words in commands(text):
        assert words[0] in VERBS, f"{page.name}: mpack {' '.join(words)}"
        command = importlib.import_module(VERBS[words[0]][0]).command
        if isinstance(command, click.Group) and len(words) > 1 and re.fullmatch(r"[a-z]+", words[1]):
            assert words[1] in command.commands, f"{page.name}: mpack {' '.join(words)}"
            command = command.commands[words[1]]
        known = {option for item in command.params for option in (*item.opts, *item.secondary_opts)} | {"--help"}
        shown = {word for word in words if re.fullmatch(r"--[a-z][a-z-]*|-[a-z]", word)}
        assert shown <= known, f"{page.name}: mpack {' '.join(words)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_targets_exist(page: Path) -> None:
    """Every `make TARGET` that a page shows is one of the Makefile's."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"^(?:[$#] | {4})make ([a-z]+)|`make ([a-z]+)", page.read_text("utf-8"), re.MULTILINE):
        assert re.search(rf"^{''.join(target)}:", makefile, re.MULTILINE), f"{page.name}: make {''.join(target)}"


def test_readme_shows_every_verb() -> None:
    """The README has a sentence for every verb, and links to every how-to page."""
    text = (ROOT / "README.md").read_text("utf-8")
    assert {words[0] for words in commands(text)} == set(VERBS)
    assert [page.name for page in (ROOT / "docs" / "howto").glob("*.md") if f"docs/howto/{page.name}" not in text] == []


def test_every_packager_has_a_page() -> None:
    """The README beside each built-in packager names all of its arguments, and no other."""
    for folder in sorted((ROOT / "packagers").glob("mpack_*/")):
        text = (folder / "README.md").read_text("utf-8")
        packager = load_packager(folder.name.removeprefix("mpack_").replace("_", "-"))
        rows = re.findall(r"^\| ([A-Za-z_, ]+) \| ", text.partition("| --- |")[2], re.MULTILINE)
        assert {name for row in rows for name in row.split(", ")} == set(packager.arguments.model_fields)
