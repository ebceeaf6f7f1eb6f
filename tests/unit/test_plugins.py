"""Plugins: found when asked for, and a wrong one is named without harming the others."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mpack.artifact.limits import Limits
from mpack.artifact.model import Trust
from mpack.artifact.reader import read_artifact
from mpack.errors import InputError, UsageError
from mpack.plugins import load_formats, load_packager, load_packagers

MODEL = Path(__file__).parents[2] / "fixtures" / "models" / "mlflow-wine" / "model"
GOOD = """
class Echo:
    name = "echo"
    summary = "Says it again."
    arguments = targets = template = None
    def accepts(self, artifact): return None
    def spec(self, artifact, arguments): raise ValueError
class Format:
    name = "toy"
    def detect(self, tree): return []
    def read(self, tree, candidate, trust): raise ValueError
"""


def install(root: Path, distribution: str, entry_points: str, **modules: str) -> None:
    """A distribution as an installer leaves it: metadata, entry points, modules."""
    info = root / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    for name, source in modules.items():
        (root / f"{name}.py").write_text(source)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that Python imports from."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_own_plugins_are_whole() -> None:
    """Everything that mpack itself brings loads."""
    formats, faults = load_formats()
    assert not faults
    assert {"mlflow", "odahu", "onnx", "sklearn", "xgboost", "lightgbm"} <= set(formats)
    packagers, faults = load_packagers()
    assert not faults
    assert {"docker-rest", "docker-cli"} <= set(packagers)


def test_third_party(site: Path) -> None:
    """A third party's packager and format stand among mpack's own."""
    entry_points = "[mpack.packagers]\necho = good_plugin:Echo\n[mpack.formats]\ntoy = good_plugin:Format\n"
    install(site, "mpack-good", entry_points, good_plugin=GOOD)
    assert load_packager("echo").summary == "Says it again."
    assert "echo" in load_packagers()[0]
    assert "toy" in load_formats()[0]


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("import no_such_module_anywhere", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        ("syntax error", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("", "AttributeError"),
        ("class Echo:\n    name = 'echo'", "TypeError: broken_plugin:Echo has no summary, arguments"),
        (GOOD.replace('name = "echo"', 'name = "other"'), "TypeError: broken_plugin:Echo calls itself 'other'"),
        (GOOD.replace('name = "echo"', "def __init__(self): 1 / 0"), "ZeroDivisionError"),
    ],
)
def test_broken(module: str, reason: str, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin that cannot be loaded is named with its distribution and the reason; the others work."""
    monkeypatch.delitem(sys.modules, "broken_plugin", raising=False)
    install(site, "mpack-broken", "[mpack.packagers]\necho = broken_plugin:Echo\n", broken_plugin=module)
    packagers, faults = load_packagers()
    assert "docker-rest" in packagers
    assert "echo" not in packagers
    assert [fault.code for fault in faults] == ["plugin-broken"]
    assert "The packager echo of the distribution mpack-broken 1.0 cannot be loaded" in faults[0].message
    assert reason in faults[0].message
    with pytest.raises(UsageError, match="mpack-broken") as caught:
        load_packager("echo")
    assert (caught.value.code, caught.value.exit_code) == ("plugin-broken", 2)


def test_a_broken_plugin_is_not_imported_for_another(site: Path) -> None:
    """Asking for one packager imports no other."""
    entry_points = "[mpack.packagers]\nboom = exploding_plugin:Boom\n"
    install(site, "mpack-exploding", entry_points, exploding_plugin="raise MemoryError")
    assert load_packager("docker-cli").name == "docker-cli"
    assert "exploding_plugin" not in sys.modules


def test_duplicate(site: Path) -> None:
    """Two distributions with a packager of one name: both are named, and neither is taken."""
    install(site, "mpack-one", "[mpack.packagers]\necho = good_one:Echo\n", good_one=GOOD)
    install(site, "mpack-two", "[mpack.packagers]\necho = good_two:Echo\n", good_two=GOOD)
    packagers, faults = load_packagers()
    assert "echo" not in packagers
    assert "docker-rest" in packagers
    assert [fault.code for fault in faults] == ["plugin-duplicate"]
    with pytest.raises(UsageError, match=r"echo is offered by mpack-one 1\.0 and by mpack-two 1\.0"):
        load_packager("echo")


def test_own_formats_may_be_left_out(site: Path) -> None:
    """Of mpack's own formats those named are not loaded; one of a third party is, and two of one name are told."""
    install(site, "mpack-good", "[mpack.formats]\ntoy = good_toy:Format\nonnx = good_toy:Format\n", good_toy=GOOD)
    formats, faults = load_formats(without={"onnx", "sklearn", "toy"})
    assert {"mlflow", "sklearn", "toy"} & set(formats) == {"mlflow", "toy"}
    assert [fault.code for fault in faults] == ["plugin-duplicate"]


def test_a_third_party_format_is_always_asked(site: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where a format of mpack's has the whole artifact, another one's word still counts."""
    claims = GOOD.replace("return []", "from mpack.artifact.model import Candidate; return [Candidate('toy', '')]")
    install(site, "mpack-claims", "[mpack.formats]\ntoy = claiming_toy:Format\n", claiming_toy=claims)
    scratch = tmp_path_factory.mktemp("scratch")
    with pytest.raises(InputError, match=r"mlflow.*toy|toy.*mlflow") as caught:
        read_artifact(str(MODEL), limits=Limits(), trust=Trust(), scratch=scratch)
    assert caught.value.code == "artifact-ambiguous"


def test_unknown() -> None:
    """A packager that is not there: the ones that are, are listed."""
    with pytest.raises(UsageError, match="No packager named nope") as caught:
        load_packager("nope")
    assert caught.value.code == "packager-unknown"
    assert "docker-rest" in caught.value.hint


def test_defaults() -> None:
    """What a packager says its arguments are where none is given is what their model makes of nothing."""
    told = {name: packager for name, packager in load_packagers()[0].items() if hasattr(packager, "defaults")}
    assert set(told) >= {"docker-rest", "docker-cli"}
    for packager in told.values():
        assert packager.arguments.model_validate({}).model_dump() == packager.defaults  # type: ignore[attr-defined]
