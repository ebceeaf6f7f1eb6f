"""The Swagger 2.0 document of /api/model/info, and the schemas that `info` prints."""

from __future__ import annotations

import json

from mpack_runtime.rest.schema import input_properties, output_properties
from mpack_runtime.rest.swagger import swagger
from mpack_runtime.signature import Column, Signature, Tensor

NUMBERS = Signature((Column("a", "double"), Column("b", "double")), (Column("y", "double"),))
EXAMPLE = {"columns": ["a", "b"], "data": [[0.5, 1.5]]}


def test_the_document_has_the_references_fields_and_texts() -> None:
    """Every field and text of the reference's document stands where its clients look."""
    document = swagger("wine", "1", NUMBERS, EXAMPLE, {"prediction": [2.0], "columns": ["y"]})
    invoke = document["paths"]["/api/model/invoke"]["post"]
    assert list(document) == ["swagger", "info", "schemes", "host", "basePath", "paths"]
    assert document["info"] == {
        "description": "This is a EDI server.",
        "title": "wine",
        "version": "1",
        "termsOfService": "http://swagger.io/terms/",
        "contact": {},
        "license": {"name": "Apache 2.0", "url": "http://www.apache.org/licenses/LICENSE-2.0.html"},
    }
    assert (document["swagger"], document["schemes"], document["host"], document["basePath"]) == (
        "2.0",
        ["https"],
        "",
        "",
    )
    assert document["paths"]["/api/model/info"]["get"] == {
        "description": "Return a swagger info about model",
        "consumes": [],
        "produces": ["application/json"],
        "summary": "Info",
        "responses": {"200": {"description": "Info", "type": "object"}},
    }
    assert (invoke["description"], invoke["summary"]) == ("Execute prediction", "Prediction")
    assert invoke["consumes"] == invoke["produces"] == ["application/json"]
    assert {key: invoke["parameters"][0][key] for key in ("in", "name", "required")} == {
        "in": "body",
        "name": "PredictionParameters",
        "required": True,
    }
    assert invoke["responses"]["type"] == "object"
    assert invoke["responses"]["200"]["name"] == "PredictionResponse"
    assert invoke["responses"]["200"]["description"] == "Results of prediction"


def test_input_and_output_have_the_references_order_of_keys() -> None:
    """`info` prints columns{example,items,type}, data{items,type,example}, prediction{example,items,type}."""
    answer = {"prediction": [2.0], "columns": ["y"]}
    assert json.dumps(input_properties(NUMBERS, EXAMPLE)) == json.dumps(
        {
            "columns": {"example": ["a", "b"], "items": {"type": "string"}, "type": "array"},
            "data": {"items": {"type": "array", "items": {"type": "number"}}, "type": "array", "example": [[0.5, 1.5]]},
        }
    )
    assert json.dumps(output_properties(NUMBERS, answer)) == json.dumps(
        {
            "prediction": {"example": [2.0], "items": {"type": "number"}, "type": "array"},
            "columns": {"example": ["y"], "items": {"type": "string"}, "type": "array"},
        }
    )


def test_types_are_the_signatures() -> None:
    """Columns of one type give it; integers among numbers are numbers; differing columns give a description."""

    def items(*types: str) -> object:
        signature = Signature(tuple(Column(f"c{number}", kind) for number, kind in enumerate(types)))
        return input_properties(signature, None)["data"]["items"]["items"]

    assert items("long", "integer") == {"type": "integer"}
    assert items("long", "double") == {"type": "number"}
    assert items("string", "datetime") == {"type": "string"}
    assert items("boolean") == {"type": "boolean"}
    assert items("string", "double") == {}
    mixed = Signature((Column("age", "long"), Column("city", "string", required=False)))
    assert input_properties(mixed, None)["data"]["description"] == "age: long, city: string (may be missing)"


def test_a_model_that_tells_nothing() -> None:
    """Without signature and sample the schema is empty columns and the example [[]], as the reference has it."""
    schema = input_properties(Signature(), None)
    assert schema["columns"]["example"] == []
    assert schema["data"] == {"items": {"type": "array", "items": {}}, "type": "array", "example": [[]]}
    assert output_properties(Signature(), None)["prediction"] == {"example": [[]], "items": {}, "type": "array"}


def test_tensors() -> None:
    """A tensor is arrays in arrays; several are an object by name."""
    one = Signature((Tensor(None, "float32", (-1, 2, 3)),), (Tensor("y", "int64", (-1, 4)),))
    assert input_properties(one, {"data": [[[0, 0, 0], [0, 0, 0]]]})["data"]["items"] == {
        "type": "array",
        "items": {"type": "array", "items": {"type": "number"}},
    }
    assert output_properties(one, None)["prediction"]["items"] == {"type": "array", "items": {"type": "integer"}}
    two = Signature((Tensor("a", "float32", (-1, 2)), Tensor("b", "bool", (-1,))))
    schema = input_properties(two, {"inputs": {"a": [[0.0, 0.0]], "b": [False]}})["inputs"]
    assert schema["properties"]["a"]["items"]["items"] == {"type": "number"}
    assert schema["properties"]["b"] == {"type": "array", "items": {"type": "boolean"}, "description": "bool[any]"}
