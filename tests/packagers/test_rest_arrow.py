"""`-a arrow=true` of docker-rest: pyarrow, and the word in model.json that makes the runtime speak it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mpack_docker_rest.arguments import RestArguments
from mpack_docker_rest.packager import DockerRest

from mpack.artifact.limits import Limits
from mpack.artifact.model import Trust
from mpack.artifact.reader import read_artifact

MODEL = Path(__file__).parents[2] / "fixtures/models/sklearn-skops/flowers.skops"


@pytest.mark.parametrize("wanted", [True, False])
def test_only_the_argument_brings_pyarrow(tmp_path: Path, wanted: bool) -> None:
    """Of a version that runs no code of a stream's; an image without it is what it was."""
    artifact = read_artifact(str(MODEL), limits=Limits(), trust=Trust(), scratch=tmp_path)
    spec = DockerRest().spec(artifact, RestArguments(arrow=wanted))
    lines = [requirement.line for requirement in spec.requirements if requirement.line.startswith("pyarrow")]
    assert lines == (["pyarrow>=14.0.1"] if wanted else [])
    (entry,) = (item for tree in spec.trees for item in tree.files if item.path == "model.json")
    with spec.contents.open(entry.sha256) as stream:
        serving = json.loads(stream.read())["serving"]
    assert serving == ({"strict": False, "arrow": True} if wanted else {"strict": False})
