"""docker-rest: its arguments as the image's environment, which the runtime reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mpack_docker_rest.arguments import RestArguments
from mpack_docker_rest.packager import DEFAULTS, DockerRest
from mpack_runtime.config import LoadSettings, Settings
from pydantic import ValidationError

from mpack.artifact.limits import Limits
from mpack.artifact.model import Trust
from mpack.artifact.reader import read_artifact

MODEL = Path(__file__).parents[2] / "fixtures/models/onnx-iris/iris.onnx"


def environment(scratch: Path, **arguments: Any) -> dict[str, str]:
    """The environment of an image of these arguments."""
    artifact = read_artifact(str(MODEL), limits=Limits(), trust=Trust(), scratch=scratch)
    return dict(DockerRest().spec(artifact, RestArguments(**arguments)).config.env)


def test_what_is_not_given_is_the_runtimes_own(tmp_path: Path) -> None:
    """Defaults of queue and batching are no part of the image, and are the same on both sides."""
    env = environment(tmp_path)
    assert not [name for name in env if "QUEUE" in name or "BATCH" in name]
    usual = LoadSettings()
    assert {
        name: DEFAULTS[name] for name in ("queue", "queueTimeout", "batching", "maxBatchRows", "maxBatchDelay")
    } == {
        "queue": usual.queue,
        "queueTimeout": usual.queue_timeout,
        "batching": usual.batching,
        "maxBatchRows": usual.max_batch_rows,
        "maxBatchDelay": usual.max_batch_delay,
    }


def test_what_is_given_arrives(tmp_path: Path) -> None:
    """As text, as a command line gives it, too."""
    env = environment(tmp_path, queue="7", queueTimeout=3, batching="on", maxBatchRows=50, maxBatchDelay=5)
    assert Settings.from_env(env).load == LoadSettings(7, 3, "on", 50, 5)


@pytest.mark.parametrize(
    ("name", "value"), [("queue", -1), ("queueTimeout", 0), ("batching", "yes"), ("maxBatchRows", 0)]
)
def test_wrong_values_are_refused(name: str, value: Any) -> None:
    """By pydantic, before anything is built."""
    with pytest.raises(ValidationError, match=name):
        RestArguments(**{name: value})
