"""mpack.toml: where it is looked for, which of two wins, and what it may say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mpack.artifact.limits import Limits
from mpack.artifact.model import Description, Loader, Sample, Tree, Trust
from mpack.artifact.overrides import Overrides, find_beside, read_beside, read_inside
from mpack.artifact.reader import apply
from mpack.artifact.source import open_tree
from mpack.errors import InputError
from mpack.signature import Column, Signature, Tensor
from mpack.spec import Requirement

OWN = Description(
    format="toy",
    flavor="toy",
    name="own",
    version="3",
    python="3.10.1",
    requirements=(Requirement("numpy==1.0", "model"),),
    loader=Loader("sklearn", "model.pkl", {"serialization": "pickle"}),
    ships={},
    sample=Sample(request={"data": [[1]]}, output_file="out.pkl"),
)


def beside(tmp_path: Path, text: str) -> Overrides:
    """The overrides of a model directory with this mpack.toml beside it."""
    (tmp_path / "model").mkdir(exist_ok=True)
    (tmp_path / "model.mpack.toml").write_text(text)
    return read_beside(str(tmp_path / "model"))


def inside(tmp_path: Path, text: str, **files: str) -> Overrides:
    """The overrides of a model directory with this mpack.toml inside."""
    model, scratch = tmp_path / "inside", tmp_path / "scratch"
    model.mkdir()
    scratch.mkdir()
    for name, content in {"mpack.toml": text, "MLmodel": "x", **files}.items():
        (model / name).write_text(content)
    return read_inside(open_tree(str(model), Limits(), scratch))


def applied(overrides: Overrides) -> Description:
    """What the overrides make of OWN."""
    return apply(overrides, OWN, Tree({}, "t"))


def test_where_it_is_looked_for(tmp_path: Path) -> None:
    """`<artifact>.mpack.toml` first; mpack.toml in the same directory only for files; none for URLs."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model.zip").write_bytes(b"x")
    assert find_beside(str(tmp_path / "model.zip")) is None
    (tmp_path / "mpack.toml").touch()
    assert find_beside(str(tmp_path / "model.zip")) == tmp_path / "mpack.toml"
    assert find_beside(str(tmp_path / "model")) is None
    (tmp_path / "model.zip.mpack.toml").touch()
    (tmp_path / "model.mpack.toml").touch()
    assert find_beside(str(tmp_path / "model.zip")) == tmp_path / "model.zip.mpack.toml"
    assert find_beside(str(tmp_path / "model") + "/") == tmp_path / "model.mpack.toml"
    assert find_beside("https://example.org/model.zip") is None
    assert read_beside(str(tmp_path / "nothing")) == Overrides()


@pytest.mark.parametrize("location", ["", "/", "x" * 250, "a/../.."])
def test_odd_locations_have_none(location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locations that leave no room for a file beside them have none, and raise nothing."""
    monkeypatch.chdir(tmp_path)
    assert find_beside(location) is None


def test_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`mpack build .` finds the file named after the real directory."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model.mpack.toml").write_text('name = "x"\n')
    monkeypatch.chdir(tmp_path / "model")
    assert read_beside(".").name == "x"


def test_values_win_over_the_artifacts(tmp_path: Path) -> None:
    """Name, version, Python, requirements and signature take the place of the artifact's own."""
    result = applied(
        beside(
            tmp_path,
            """
            name = "wine"
            version = "1.2"
            python = "3.11"
            requirements = ["pandas==2.2.1"]
            extra-requirements = ["pyarrow"]
            [[signature.inputs]]
            name = "age"
            type = "long"
            required = false
            [[signature.outputs]]
            name = "score"
            dtype = "float32"
            shape = [-1, 1]
            [loader]
            method = "predict_proba"
            """,
        )
    )
    assert (result.name, result.version, result.python) == ("wine", "1.2", "3.11")
    assert [item.line for item in result.requirements] == ["pandas==2.2.1", "pyarrow"]
    assert result.signature == Signature((Column("age", "long", False),), (Tensor("score", "float32", (-1, 1)),))
    assert result.loader.options == {"serialization": "pickle", "method": "predict_proba"}


def test_what_is_not_said_stays() -> None:
    """Without a key, the artifact's own value stays."""
    assert applied(Overrides()) == OWN


def test_extra_requirements_are_added(tmp_path: Path) -> None:
    """extra-requirements alone leaves the artifact's own in place."""
    lines = [item.line for item in applied(beside(tmp_path, 'extra-requirements = ["pyarrow"]')).requirements]
    assert lines == ["numpy==1.0", "pyarrow"]


def test_sample(tmp_path: Path) -> None:
    """A request with its answer, inline or in files, takes the place of the artifact's sample."""
    text = "[sample]\nrequest = { data = [[1, 2]] }\nexpected-file = 'answer.json'\ntolerance = 1e-3\n"
    (tmp_path / "answer.json").write_text('{"prediction": [null, 1.5]}')
    sample = applied(beside(tmp_path, text)).sample
    assert sample == Sample(request={"data": [[1, 2]]}, expected={"prediction": [None, 1.5]}, tolerance=1e-3)


def test_answer_to_the_artifacts_own_sample(tmp_path: Path) -> None:
    """An answer without a request belongs to the artifact's own request."""
    sample = applied(beside(tmp_path, "[sample]\nexpected = { prediction = [2] }\n")).sample
    assert sample == Sample(request={"data": [[1]]}, expected={"prediction": [2]})


def test_answer_to_nothing(tmp_path: Path) -> None:
    """An answer where nobody asked is an error."""
    from dataclasses import replace

    overrides = beside(tmp_path, "[sample]\nexpected = { prediction = [2] }\n")
    with pytest.raises(InputError, match="sample has no request, and neither has the artifact"):
        apply(overrides, replace(OWN, sample=None), Tree({}, "t"))


def test_trust_limits_and_base(tmp_path: Path) -> None:
    """Beside the artifact all three may be set; they add to the command line, which wins where it sets a limit."""
    overrides = beside(
        tmp_path,
        'base = "own:1"\n[trust]\nmodules = ["mine"]\npickle = true\n[limits]\nmax-size = "2GB"\nmax-entries = 7\n',
    )
    assert overrides.base == "own:1"
    assert overrides.widen(Trust(frozenset(["other"]), gpu=True)) == Trust(frozenset(["other", "mine"]), True, gpu=True)
    assert overrides.limits_over(Limits(entries=5)) == Limits(total=2_000_000_000, entries=5)


def test_beside_wins_over_inside_key_by_key(tmp_path: Path) -> None:
    """What the file beside does not set is taken from the one inside."""
    within = inside(tmp_path, 'name = "in"\nversion = "in"\n[sample]\nrequest-file = "r.json"\n', **{"r.json": "{}"})
    both = beside(tmp_path, 'name = "out"\n').over(within)
    assert (both.name, both.version) == ("out", "in")
    assert both.sample is not None
    assert both.sample.request == {}


def test_file_inside_may_not_read_outside(tmp_path: Path) -> None:
    """A sample file named from inside the artifact is looked up in the artifact only."""
    (tmp_path / "secret.json").write_text("{}")
    with pytest.raises(InputError, match="there is no such file"):
        inside(tmp_path, '[sample]\nrequest-file = "../secret.json"\n')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("python = 3.11", r"python must be a string in quotes, not 3\.11"),
        ("name = ''", "name: string should have at least 1 character"),
        ('system-packages = ["Not A Package"]', r"system-packages\.0: string should match pattern"),
        ("[[signature.inputs]]\nname = 'x'", "a field has either a type, or a dtype and a shape"),
        ("[[signature.inputs]]\ntype = 'long'\n[[signature.inputs]]\ndtype = 'int8'\nshape = [1]", "mixes columns"),
        ("[sample]\nrequest = { x = nan }", r"sample\.request is not JSON"),
        ("[sample]\nrequest = {}\nrequest-file = 'a'", "are both given"),
        ("[sample]\ntolerance = -1", r"sample\.tolerance: input should be greater than or equal to 0"),
        ("[loader]\nserialization = 'pickle'", r"loader\.serialization is no key that mpack knows"),
        ("[loader]\nclass = 'os.system'", r"loader\.class: string should match"),
        ("[trust]\npickle = 'yes'", r"trust\.pickle: input should be a valid boolean"),
        ("extra_requirements = []", "extra_requirements is no key that mpack knows"),
        ("a = 1\nb = 2", "a is no key that mpack knows; b is no key"),
    ],
)
def test_wrong(text: str, message: str, tmp_path: Path) -> None:
    """What is wrong is named by its key, with exit 1."""
    with pytest.raises(InputError, match=message) as caught:
        beside(tmp_path, text)
    assert (caught.value.code, caught.value.exit_code) == ("override-invalid", 1)
    assert "model.mpack.toml" in caught.value.message


def test_loader_option_of_another_kind(tmp_path: Path) -> None:
    """A loader option that the model's loader does not know is named."""
    with pytest.raises(InputError, match=r"loader\.class does not apply to a model of the kind sklearn"):
        applied(beside(tmp_path, "[loader]\nclass = 'XGBClassifier'"))


@pytest.mark.parametrize("data", [b"\xff\xfe", b"= 1", b"a = " + b"[" * 100_000], ids=["bytes", "syntax", "deep"])
def test_not_toml(data: bytes, tmp_path: Path) -> None:
    """Bytes that are no TOML are an error, however deep."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model.mpack.toml").write_bytes(data)
    with pytest.raises(InputError, match="it is not TOML"):
        read_beside(str(tmp_path / "model"))


def test_module_docstring_is_true() -> None:
    """Every key that the module's docstring names is one that the schema has."""
    known: set[str] = set()

    def collect(model: Any) -> None:
        for name, item in model.model_fields.items():
            known.add(item.alias or name)
            for kind in (item.annotation, *getattr(item.annotation, "__args__", ())):
                if hasattr(kind, "model_fields"):
                    collect(kind)
                for inner in getattr(kind, "__args__", ()):
                    if hasattr(inner, "model_fields"):
                        collect(inner)

    collect(Overrides)
    from mpack.artifact import overrides

    named = {
        "name version python requirements extra-requirements system-packages base trust modules pickle limits max-size "
        "max-entries max-ratio signature inputs outputs type required dtype shape sample request request-file expected "
        "expected-file tolerance loader class method entrypoint workdir"
    }.pop().split()
    assert known == set(named)
    assert all(word in (overrides.__doc__ or "") for word in named)
