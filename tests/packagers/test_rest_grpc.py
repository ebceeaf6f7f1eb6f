"""What docker-rest's arguments put into an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mpack_docker_rest.arguments import RestArguments
from mpack_docker_rest.packager import DockerRest
from pydantic import ValidationError

from mpack.artifact.limits import Limits
from mpack.artifact.model import Trust
from mpack.artifact.reader import read_artifact
from mpack.spec import ImageSpec

ARTIFACT = Path(__file__).parents[2] / "fixtures/models/odahu-invoices/invoices"


def wanted(scratch: Path, **arguments: Any) -> ImageSpec:
    artifact = read_artifact(str(ARTIFACT), limits=Limits(), trust=Trust(), scratch=scratch)
    return DockerRest().spec(artifact, RestArguments(**arguments))


def test_grpc_is_there_only_where_it_is_asked_for(tmp_path: Path) -> None:
    """Its two packages, its port, its setting."""
    plain, more = (wanted(tmp_path, grpc=grpc) for grpc in (False, True))
    added = [item.line for item in more.requirements if item not in plain.requirements]
    assert [line.split(">=")[0] for line in added] == ["grpcio", "protobuf"]
    assert (plain.config.ports, more.config.ports) == ((5000,), (5000, 9000))
    assert set(more.config.env) - set(plain.config.env) == {("MPACK_GRPC_PORT", "9000")}


def test_one_port_cannot_be_both() -> None:
    """Refused before the build."""
    assert RestArguments(port=9000).port == 9000
    with pytest.raises(ValidationError, match="port is 9000, which is gRPC's"):
        RestArguments(port=9000, grpc=True)
