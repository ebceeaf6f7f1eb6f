"""Which module may import which: ARCHITECTURE.md's table, checked on the source text."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "src" / "mpack"
#: The words of the table that stand for several parts.
DATA = {"errors", "paths", "signature", "contents", "spec", "plan"}
#: What any part may import.
FREE = {"records"}


def read_table() -> dict[str, set[str] | None]:
    """Part -> the parts that it may import besides itself (None: all but `cli`), from ARCHITECTURE.md's table."""
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    table: dict[str, set[str] | None] = {}
    for line in text.partition("## Modules")[2].partition("\n## ")[0].splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) != 3 or not cells[0].startswith("`"):
            continue
        allowed = set(re.findall(r"`(\w+)`", cells[2])) | (DATA if re.match(r"data\b", cells[2]) else set())
        allowed |= FREE
        for part in re.findall(r"`(\w+)/?`", cells[0]):
            assert part not in table, f"{part} has two rows"
            table[part] = None if cells[2] in ("everything", "everything but `cli`") else allowed
    return table


#: part of the core -> the parts it may import. A part is a top-level module or package of mpack.
ALLOWED = read_table()


def imports_of(path: Path, package: str) -> set[str]:
    """The second-level names of `package` that a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == package and len(parts) > 1:
                found.add(parts[1])
    return found


def parts() -> list[tuple[str, Path]]:
    """(part, file) of every file of the core."""
    return [(path.relative_to(CORE).parts[0].removesuffix(".py"), path) for path in sorted(CORE.rglob("*.py"))]


@pytest.mark.parametrize(("part", "path"), parts(), ids=lambda value: str(value).rpartition("/mpack/")[2])
def test_allowed_imports(part: str, path: Path) -> None:
    """Every file imports only what the table allows its part; nothing but `cli` imports `cli`."""
    known = {name for name, _ in parts()}
    used = (imports_of(path, "mpack") & known) - {part, "__init__"}
    if part == "cli":
        return
    assert "cli" not in used
    if part == "__init__":
        return
    assert part in ALLOWED, f"ARCHITECTURE.md's table has no row for {part}"
    allowed = ALLOWED[part]
    assert allowed is None or used <= allowed, f"{path.name} imports {sorted(used - (allowed or set()))}"


def test_core_and_runtime_are_strangers() -> None:
    """The core never imports the runtime, and the runtime never imports the core."""
    for path in CORE.rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        for node in ast.walk(tree):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any(name.split(".")[0] == "mpack_runtime" for name in modules), path
    for path in (ROOT / "runtime" / "src").rglob("*.py"):
        text = path.read_text("utf-8")
        assert not re.search(r"^\s*(from|import) mpack(\.|\s)", text, re.MULTILINE), path


def test_no_framework_in_the_core() -> None:
    """No module of the core or of a packager imports an ML framework, or pickle's loader."""
    forbidden = {"sklearn", "xgboost", "lightgbm", "onnx", "onnxruntime", "torch", "mlflow", "joblib", "skops", "numpy"}
    for path in [*CORE.rglob("*.py"), *(ROOT / "packagers").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            tops = {name.split(".")[0] for name in names}
            assert not tops & (forbidden | {"pickle", "marshal", "shelve"}), path


def test_table_names_what_there_is() -> None:
    """ARCHITECTURE.md's table has a row for every part of the core, and names no other."""
    there = {name for name, _ in parts()} - {"__init__"}
    assert set(ALLOWED) == there
    above = {"pipeline", "locking", "suggest", "optimize", "rebuild", "testing", "cli"}
    assert {part for part, allowed in ALLOWED.items() if allowed is None} == above
    named = set().union(*(allowed for allowed in ALLOWED.values() if allowed is not None))
    assert named <= there - above


def test_files_are_small() -> None:
    """No Python file is longer than about 400 lines."""
    for root in (CORE, ROOT / "runtime" / "src", ROOT / "packagers", ROOT / "tests"):
        for path in root.rglob("*.py"):
            assert len(path.read_text("utf-8").splitlines()) <= 420, path


def test_help_imports_no_verb() -> None:
    """`mpack --help` loads neither a verb nor pydantic, jinja2, httpx or yaml."""
    code = (
        "import sys\n"
        "from mpack.cli.main import mpack\n"
        "mpack.main(args=['--help'], standalone_mode=False)\n"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in {'pydantic', 'jinja2', 'httpx', 'yaml'}"
        " or m.startswith('mpack.cli.') and m not in {'mpack.cli.main', 'mpack.cli.report'}))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"
