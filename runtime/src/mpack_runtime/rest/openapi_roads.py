"""The part of the OpenAPI document that is the same for every model: V2, KServe V1 and MLflow's routes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mpack_runtime.arrow import MEDIA as STREAM
from mpack_runtime.rest.openapi_forms import kserve, mlflow
from mpack_runtime.rest.roads import JSON, ROUTES
from mpack_runtime.rest.schema import query_parameters
from mpack_runtime.signature import Signature
from mpack_runtime.v2.tensors import DTYPES

Schema = dict[str, Any]

_WORDS = {
    "server": "The server's name, version and extensions.",
    "live": "The process answers.",
    "ready": "The model has answered its sample.",
    "metadata": "The model's inputs and outputs as V2 tensors.",
    "model_ready": "The model has answered its sample.",
    "infer": "Predict (Open Inference Protocol, V2).",
    "index": "The models of this service, which is one.",
    "models": "The names of the models, which is one.",
    "model": "Whether the model is ready.",
    "predict": "Predict (KServe V1).",
    "invocations": "Predict (MLflow's scoring server).",
    "ping": "The model has answered its sample.",
    "version": "The runtime's version.",
}
_REQUESTS = {"infer": "V2Request", "predict": "V1Request", "invocations": "MlflowRequest", "index": "V2Index"}
_ANSWERS = {"infer": "V2Answer", "metadata": "V2Metadata", "predict": "Predictions", "invocations": "Predictions"}
_ASKED = {
    "400": "The request is at fault; the message says which part and why.",
    "408": "The body came too slowly.",
    "413": "The body is larger than the service takes.",
    "415": "The content type or encoding is not one that the service reads.",
    "429": "As many predictions wait as may.",
    "500": "The model raised; the message is its own.",
    "503": "It was not the prediction's turn in time.",
    "504": "The model did not answer in time.",
}
_ARROW_ONLY = "Nothing but Arrow is accepted, and the image does not speak it."
_TEXTS = ("ping", "version")
_WAITING = {"503": "The model has not answered its sample yet."}
_RAW = "application/octet-stream"
ARROW: Schema = {"schema": {"type": "string", "format": "binary", "description": "An Arrow IPC stream of one table."}}


def road_paths(name: str, version: str, methods: Sequence[str] = (), arrow: bool = False) -> Schema:
    """Every route's operation; `name` and `version` are the model's, `methods` those that a client may ask for."""
    paths = {}
    for route, (method, protocol, view) in ROUTES.items():
        operation = _operation(protocol, view)
        operation["operationId"] = _operation_id(route, protocol, view)
        known = {"name": name, "version": version}
        operation["parameters"] = [
            {"name": key, "in": "path", "required": True, "schema": {"type": "string", "enum": [value]}}
            for key, value in known.items()
            if f"{{{key}}}" in route
        ]
        if operation["parameters"]:
            operation["responses"]["404"] = _error(protocol, "Another model, or another version.")
        if view in ("infer", "predict", "invocations"):
            operation["parameters"] += query_parameters(methods)
        if view == "invocations":
            operation["responses"]["406"] = _error(protocol, _ARROW_ONLY)
        if view == "invocations" and arrow:
            operation["requestBody"]["content"][STREAM] = ARROW
            operation["responses"]["200"]["content"][STREAM] = ARROW
        paths[route] = {method.lower(): operation}
    return paths


def road_schemas(signature: Signature) -> Schema:
    """What the operations refer to."""
    tensor = {"name": {"type": "string"}, "datatype": {"enum": list(DTYPES)}, "shape": _list({"type": "integer"})}
    named = _object({"name": {"type": "string"}, "parameters": {"type": "object"}}, "name")
    given = _object({**tensor, "data": {"type": "array"}, "parameters": {"type": "object"}}, *tensor)
    return {
        "V2Request": _object(
            {
                "id": {"type": "string"},
                "inputs": {**_list(given), "minItems": 1},
                "outputs": _list(named),
                "parameters": {"type": "object"},
            },
            "inputs",
        ),
        "V2Answer": _object(
            {
                "model_name": {"type": "string"},
                "model_version": {"type": "string"},
                "id": {"type": "string"},
                "outputs": _list(given),
            },
            *("model_name", "model_version", "outputs"),
        ),
        "V2Metadata": _object(
            {
                "name": {"type": "string"},
                "versions": _list({"type": "string"}),
                "platform": {"type": "string"},
                "inputs": _list(_object(tensor, *tensor)),
                "outputs": _list(_object(tensor, *tensor)),
            },
            *("name", "versions", "platform", "inputs", "outputs"),
        ),
        "V2Index": _object({"ready": {"type": "boolean"}}),
        "V1Request": kserve(signature),
        "MlflowRequest": mlflow(signature),
        "Predictions": _object({"predictions": {}}, "predictions"),
        "RoadError": _object({"error": {"type": "string"}}, "error"),
        "MlflowError": _object(
            {"error_code": {"type": "string"}, "message": {"type": "string"}}, *("error_code", "message")
        ),
    }


def _operation(protocol: str, view: str) -> Schema:
    answer = _reference(_ANSWERS[view]) if view in _ANSWERS else _plain(view)
    content: Schema = {"text/plain" if view in _TEXTS else JSON: {"schema": answer}}
    faults = {}
    if view == "infer":
        content[_RAW] = {"schema": {"type": "string", "format": "binary"}}
    if view in _REQUESTS:
        faults = _ASKED if view != "index" else {key: _ASKED[key] for key in ("400", "408", "413", "415")}
    elif view in ("ready", "model_ready", "model", "ping"):
        faults = _WAITING
    operation: Schema = {
        "summary": _WORDS[view],
        "responses": {"200": {"description": _WORDS[view], "content": content}},
    }
    for status, words in faults.items():
        waiting = {"description": words, "content": content}
        operation["responses"][status] = waiting if faults is _WAITING else _error(protocol, words)
    if view in _REQUESTS:
        operation["requestBody"] = {"required": view != "index", "content": _bodies(view)}
    return operation


def _bodies(view: str) -> Schema:
    bodies: Schema = {JSON: {"schema": _reference(_REQUESTS[view])}}
    if view == "infer":
        words = "JSON of Inference-Header-Content-Length bytes, then the raw tensors."
        bodies[_RAW] = {"schema": {"type": "string", "format": "binary", "description": words}}
    if view == "invocations":
        bodies["text/csv"] = {"schema": {"description": "A header line, then a line a row."}}
    return bodies


def _plain(view: str) -> Schema:
    if view in _TEXTS:
        return {"type": "string"}
    return {"type": "array" if view == "index" else "object"}


def _operation_id(route: str, protocol: str, view: str) -> str:
    version = "Version" if "{version}" in route else ""
    return f"{protocol}_{route.strip('/') if view == 'ping' else view}{version}"


def _error(protocol: str, words: str) -> Schema:
    name = "MlflowError" if protocol == "mlflow" else "RoadError"
    return {"description": words, "content": {JSON: {"schema": _reference(name)}}}


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: Schema, *required: str) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required)}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}
