"""model.json, settings from the environment, thread pools."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mpack_runtime import threads
from mpack_runtime.config import GrpcSettings, ModelConfig, Settings
from mpack_runtime.errors import LoadFailure, SettingsError
from mpack_runtime.signature import Column, Tensor

MODEL = {
    "schema": 1,
    "name": "wine",
    "version": "1",
    "loader": {"kind": "sklearn", "path": "m.pkl", "options": {"method": "predict"}},
    "signature": {
        "inputs": [{"kind": "column", "name": "age", "type": "long", "required": False}],
        "outputs": [{"kind": "tensor", "name": None, "dtype": "int64", "shape": [-1]}],
        "params": [{"name": "t", "type": "double", "default": 0.5}],
    },
    "sample": {"request": {"data": [[1]]}, "input_file": None, "expected": None, "output_file": None, "tolerance": 0.1},
    "serving": {"strict": True, "formats": ["json"]},
}


def write(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value))
    return path


def test_model_json_is_read_whole(tmp_path: Path) -> None:
    """Every field of model.json arrives, and the model's files are looked for beside it."""
    config = ModelConfig.load(write(tmp_path / "model.json", MODEL))
    assert (config.name, config.version, config.strict, config.formats) == ("wine", "1", True, ("json",))
    assert config.path == tmp_path / "model" / "m.pkl"
    assert config.signature is not None and config.sample is not None
    assert config.signature.inputs == (Column("age", "long", False),)
    assert config.signature.outputs == (Tensor(None, "int64", (-1,)),)
    assert config.signature.params[0].default == 0.5
    assert config.sample.tolerance == 0.1


def test_environment_names_another_model_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MPACK_MODEL_JSON is read where no path is given."""
    monkeypatch.setenv("MPACK_MODEL_JSON", str(write(tmp_path / "other.json", MODEL)))
    assert ModelConfig.load().name == "wine"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, "schema 2 is not 1"),
        ({"loader": {"path": "x"}}, "'kind'"),
        ({"signature": {"inputs": [{"kind": "row"}]}}, "unknown kind 'row'"),
        ({"signature": {"inputs": [{"kind": "column", "name": "a", "type": "complex"}]}}, "'complex'"),
        ({"sample": {"rows": 3}}, "rows"),
    ],
)
def test_wrong_model_json_is_a_sentence(tmp_path: Path, change: dict[str, object], words: str) -> None:
    """A model.json of another form is a LoadFailure that names the file and the fault."""
    path = write(tmp_path / "model.json", {**MODEL, **change})
    with pytest.raises(LoadFailure, match="is not of the form") as caught:
        ModelConfig.load(path)
    assert words in caught.value.message and str(path) in caught.value.message


def test_missing_or_broken_model_json(tmp_path: Path) -> None:
    """No file and no JSON are LoadFailures too."""
    with pytest.raises(LoadFailure, match="cannot be read"):
        ModelConfig.load(tmp_path / "none.json")
    (tmp_path / "bad.json").write_bytes(b"\xff{")
    with pytest.raises(LoadFailure, match="cannot be read"):
        ModelConfig.load(tmp_path / "bad.json")


def test_settings_have_defaults_and_overrides() -> None:
    """An empty variable means the default."""
    assert Settings.from_env({}) == Settings()
    settings = Settings.from_env(
        {"MPACK_PORT": "8080", "MPACK_WORKERS": " 3 ", "MPACK_TIMEOUT": "", "MPACK_HOST": "::"}
    )
    assert (settings.port, settings.workers, settings.timeout, settings.host) == (8080, 3, 60, "::")
    assert settings.threads_per_worker is None
    assert Settings.from_env({"MPACK_THREADS_PER_WORKER": "2"}).threads_per_worker == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MPACK_PORT", "0"),
        ("MPACK_PORT", "65536"),
        ("MPACK_PORT", "http"),
        ("MPACK_WORKERS", "-1"),
        ("MPACK_THREADS", "1.5"),
        ("MPACK_TIMEOUT", "٣"),
        ("MPACK_MAX_BODY", "10MB"),
        ("MPACK_HOST", "a b"),
        ("MPACK_QUEUE", "-1"),
        ("MPACK_QUEUE_TIMEOUT", "0"),
        ("MPACK_BATCHING", "yes"),
        ("MPACK_MAX_BATCH_ROWS", "many"),
        ("MPACK_MAX_BATCH_DELAY", "1.5"),
        ("MPACK_GRPC_PORT", "65536"),
        ("MPACK_GRPC_CALLS", "0"),
    ],
)
def test_wrong_setting_names_variable_and_value(name: str, value: str) -> None:
    """A wrong value is a SettingsError whose sentence holds both."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({name: value})
    assert name in caught.value.message and repr(value) in caught.value.message
    assert caught.value.exit_code == 2


def test_settings_of_grpc() -> None:
    """Without a port, or with 0, there is none; the port of HTTP is no other's."""
    for env in ({}, {"MPACK_GRPC_PORT": ""}, {"MPACK_GRPC_PORT": "0", "MPACK_GRPC_CALLS": "7"}):
        assert Settings.from_env(env).grpc is None
    assert Settings.from_env({"MPACK_GRPC_PORT": "9000"}).grpc == GrpcSettings(9000, 100)
    with pytest.raises(SettingsError, match="both 5000"):
        Settings.from_env({"MPACK_GRPC_PORT": "5000"})


def test_thread_variables_never_override_the_users() -> None:
    """Pools get the worker's share; what is set stays."""
    env = {"OMP_NUM_THREADS": "7"}
    assert threads.apply(Settings(threads_per_worker=3), env) == 3
    spinning = {"OPENBLAS_THREAD_TIMEOUT": "20"}
    assert env == {"OMP_NUM_THREADS": "7", "OPENBLAS_NUM_THREADS": "3", "MKL_NUM_THREADS": "3", **spinning}
    assert threads.apply(Settings(), env := {"OPENBLAS_THREAD_TIMEOUT": "26"}) and "26" in env.values()
