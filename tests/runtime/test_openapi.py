"""The OpenAPI 3.1 document of /openapi.json."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mpack_runtime.config import ModelConfig, Settings
from mpack_runtime.rest.app import RestApp
from mpack_runtime.rest.metrics import ROUTES
from mpack_runtime.rest.openapi import openapi
from mpack_runtime.service import Service
from mpack_runtime.signature import Column, Param, Signature

SIGNATURE = Signature((Column("a", "double"),), (Column("y", "long"),), (Param("n", "long", 3),))


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        found = [value["$ref"]] if "$ref" in value else []
        return found + [reference for item in value.values() for reference in _references(item)]
    return [reference for item in value for reference in _references(item)] if isinstance(value, list) else []


def test_it_names_every_route_of_the_service_and_resolves(model_json: Path) -> None:
    """All routes are described, each is counted, operation ids are unique, and every $ref has its target."""
    app = RestApp(Service.load(ModelConfig.load(model_json)), Settings()).flask()
    served = {rule.rule for rule in app.url_map.iter_rules() if rule.endpoint != "static"}
    document = openapi("wine", "1", SIGNATURE, {"data": [[1.0]]})
    assert document["openapi"].startswith("3.1")
    assert served <= set(document["paths"]) <= set(ROUTES)
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    for reference in _references(document):
        assert re.fullmatch(r"#/components/schemas/\w+", reference)
        assert reference.rsplit("/", 1)[1] in document["components"]["schemas"]


def test_request_and_answer_have_the_true_types() -> None:
    """Examples are the sample's, types the signature's, parameters have their defaults; `example` is not 3.1."""
    document = openapi("wine", "1", SIGNATURE, {"data": [[1.0]]}, {"prediction": [7], "columns": ["y"]})
    schemas = document["components"]["schemas"]
    assert schemas["Request"]["properties"]["data"]["examples"] == [[[1.0]]]
    assert schemas["Request"]["required"] == ["data"]
    assert schemas["Request"]["properties"]["params"]["properties"]["n"]["default"] == 3
    assert schemas["Prediction"]["properties"]["prediction"]["items"] == {"type": ["integer", "null"]}
    assert schemas["Prediction"]["properties"]["prediction"]["examples"] == [[7]]
    assert "example" not in schemas["Request"]["properties"]["data"]


def test_a_prefix_is_the_servers_address() -> None:
    """Behind a proxy that takes off a prefix, clients must put it before every path."""
    assert openapi("wine", "1", SIGNATURE, prefix="/models/wine")["servers"] == [{"url": "/models/wine"}]
    assert openapi("wine", "1", SIGNATURE)["servers"] == [{"url": "/"}]
