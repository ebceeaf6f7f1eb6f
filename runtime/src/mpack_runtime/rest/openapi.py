"""The OpenAPI 3.1 document of /openapi.json: every route, every answer, the true types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mpack_runtime.arrow import MEDIA as STREAM
from mpack_runtime.rest.openapi_forms import by_name, names, rows, tensor
from mpack_runtime.rest.openapi_roads import ARROW, road_paths, road_schemas
from mpack_runtime.rest.schema import input_properties, output_properties, query_parameters
from mpack_runtime.signature import Signature

_ERRORS = {
    "400": "The request is at fault; the message names column, row and reason.",
    "406": "Nothing but Arrow is accepted, and the image does not speak it.",
    "408": "The body came too slowly.",
    "413": "The body is larger than the service takes.",
    "415": "The content type or encoding is not one that the service reads.",
    "429": "As many predictions wait as may.",
    "500": "The model raised; the message is its own.",
    "503": "It was not the prediction's turn in time.",
    "504": "The model did not answer in time.",
}


def openapi(
    name: str,
    version: str,
    signature: Signature,
    example: Mapping[str, Any] | None = None,
    answer: Mapping[str, Any] | None = None,
    *,
    prefix: str = "",
    methods: Sequence[str] = (),
    arrow: bool = False,
) -> dict[str, Any]:
    """The document of a model; `prefix` is the path that a proxy in front of the service takes off, `methods` are those
    that a client may ask for (the model's own first), `arrow`: Arrow streams go in and out."""
    return {
        "openapi": "3.1.0",
        "info": {"title": name, "version": version, "summary": "Predictions of one model over HTTP."},
        "servers": [{"url": prefix or "/"}],
        "paths": {
            "/api/model/invoke": {"post": _invoke(example, methods, arrow)},
            "/api/model/info": {"get": _get("modelInfo", "The Swagger 2.0 document of this interface.", "object")},
            "/healthcheck": {"get": _get("healthcheck", 'Answers {"status": true}.', "object")},
            "/livez": {"get": _get("livez", "The process answers.", "object")},
            "/readyz": {"get": _get("readyz", "The model is loaded and has answered its sample.", "object")},
            "/metrics": {"get": _text("metrics", "Prometheus metrics, merged over workers.", "text/plain")},
            "/openapi.json": {"get": _get("openapi", "This document.", "object")},
            "/": {"get": _text("page", "A page to read this interface and try it.", "text/html")},
            **road_paths(name, version, methods, arrow),
        },
        "components": {
            "schemas": {
                "Request": _request(signature, example),
                "Prediction": _prediction(signature, answer),
                "Error": {"type": "object", "required": ["message"], "properties": {"message": {"type": "string"}}},
                **road_schemas(signature),
            }
        },
    }


def _invoke(example: Mapping[str, Any] | None, methods: Sequence[str], arrow: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"schema": {"$ref": "#/components/schemas/Request"}}
    if example is not None:
        body["example"] = dict(example)
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    answers: dict[str, Any] = {
        "200": {
            "description": "The prediction.",
            "headers": {
                header: {"description": words, "schema": {"type": "string"}}
                for header, words in (
                    ("Model-Name", "The model's name."),
                    ("Model-Version", "The model's version."),
                    ("Request-Id", "The request's own id, or one made for it."),
                    ("Mpack-Warning", "What of the request was ignored, if anything was."),
                )
            },
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Prediction"}}},
        }
    }
    answers.update({status: {"description": words, "content": error} for status, words in _ERRORS.items()})
    streams = {}
    if arrow:
        streams = {STREAM: ARROW}
        answers["200"]["content"][STREAM] = ARROW
    parameters = query_parameters(methods)
    return {
        **({"parameters": parameters} if parameters else {}),
        "operationId": "invoke",
        "summary": "Predict",
        "description": "Also understands MLflow's dataframe_split, dataframe_records, instances and inputs, "
        "and gzip (Content-Encoding).",
        "requestBody": {
            "required": True,
            "content": {
                "application/json": body,
                "text/csv": {"schema": {"description": "A header line, then a line a row."}},
                **streams,
            },
        },
        "responses": answers,
    }


def _request(signature: Signature, example: Mapping[str, Any] | None) -> dict[str, Any]:
    properties = {key: _modern(value) for key, value in input_properties(signature, example).items()}
    tensors = signature.input_tensors
    if "data" in properties and (signature.input_columns or len(tensors) == 1):
        properties["data"].update(rows(signature))
    if "inputs" in properties:
        properties["inputs"].update(tensor(tensors[0]) if "items" in properties["inputs"] else by_name(signature))
    if "columns" in properties:
        properties["columns"] = {**names(signature), "examples": properties["columns"]["examples"]}
    needed = [key for key in properties if key != "columns"]
    schema: dict[str, Any] = {"type": "object", "properties": properties, "required": needed}
    if signature.params:
        schema["properties"]["params"] = {
            "type": "object",
            "properties": {
                param.name: {"description": param.type, "default": param.default} for param in signature.params
            },
        }
    return schema


def _prediction(signature: Signature, answer: Mapping[str, Any] | None) -> dict[str, Any]:
    properties = {key: _modern(value) for key, value in output_properties(signature, answer).items()}
    # Several outputs answer by name: then the prediction is an object, not a list.
    properties["prediction"].pop("type" if len(signature.outputs) != 1 else "", None)
    properties["prediction"]["items"] = _or_null(properties["prediction"]["items"])
    return {"type": "object", "properties": properties, "required": ["prediction", "columns"]}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """An answer's item, which is null where the model has no value (NaN)."""
    if "items" in schema:
        return {**schema, "items": _or_null(schema["items"])}
    return {**schema, "type": [schema["type"], "null"]} if "type" in schema else schema


def _modern(schema: dict[str, Any]) -> dict[str, Any]:
    """JSON Schema 2020-12 knows `examples`, a list, in place of `example`."""
    return {**{key: value for key, value in schema.items() if key != "example"}, "examples": [schema["example"]]}


def _get(operation: str, words: str, kind: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": kind}}}
    return {
        "operationId": operation,
        "summary": words,
        "responses": {"200": {"description": words, "content": content}},
    }


def _text(operation: str, words: str, media: str) -> dict[str, Any]:
    content = {media: {"schema": {"type": "string"}}}
    return {
        "operationId": operation,
        "summary": words,
        "responses": {"200": {"description": words, "content": content}},
    }
