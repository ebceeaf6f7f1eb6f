"""Which module may import which: one table, the same as ARCHITECTURE.md's, checked on the source text."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "src" / "mpack"
DATA = {"errors", "signature", "contents", "spec", "plan", "paths"}

#: part of the core -> the parts it may import, besides itself. A part is a top-level module or package of mpack.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "paths": set(),
    "signature": set(),
    "contents": set(),
    "spec": {"contents"},
    "plan": {"spec"},
    "progress": set(),
    "naming": {"errors"},
    "plugins": {"errors"} | {"packager", "artifact"},
    "artifact": {"errors", "signature", "spec", "contents", "plugins", "paths"},
    "packager": {"artifact", "spec", "errors"},
    "serving": {"artifact", "contents", "plan", "spec"},
    "env": DATA,
    "oci": {"errors", "contents", "spec", "plan", "paths"},
    "registry": {"errors", "oci", "paths"},
    "engine": {"errors"},
    "bases": DATA | {"oci", "registry", "engine", "env", "artifact", "serving"},
    "resolve": DATA | {"env", "bases", "oci"},
    "dockerfile": DATA | {"env"},
    "builders": DATA | {"oci", "env", "engine", "dockerfile", "bases"},
    "targets": DATA | {"builders", "oci", "engine", "registry"},
    "sandbox": {"errors", "plan", "oci", "engine", "builders", "targets"},
    "verify": {"errors", "plan", "builders", "sandbox"},
    "images": {"errors", "builders", "oci", "engine", "bases"},
}
ANYTHING_BUT_CLI = {"pipeline", "testing"}


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
    if part in ANYTHING_BUT_CLI or part == "__init__":
        return
    assert part in ALLOWED, f"{part} is not in the table of allowed imports"
    assert used <= ALLOWED[part], f"{path.name} imports {sorted(used - ALLOWED[part])}"


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


def test_table_is_in_the_docs() -> None:
    """Every part of the core has its row in ARCHITECTURE.md."""
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    for part in {name for name, _ in parts()} - {"__init__"}:
        assert re.search(rf"`{part}/?`", text), f"ARCHITECTURE.md does not name `{part}`"


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
