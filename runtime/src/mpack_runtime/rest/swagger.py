"""The Swagger 2.0 document of /api/model/info, field by field that of ODAHU's docker-rest server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mpack_runtime.rest.schema import input_properties, method_parameter, output_properties
from mpack_runtime.signature import Signature

JSON = "application/json"


def swagger(
    name: str,
    version: str,
    signature: Signature,
    example: Mapping[str, Any] | None = None,
    answer: Mapping[str, Any] | None = None,
    methods: Sequence[str] = (),
) -> dict[str, Any]:
    """The document of a model; `example` is a request body, `answer` what the model says to it, where known.

    `methods` are those that the address may name, the model's own first.
    """
    return {
        "swagger": "2.0",
        "info": {
            "description": "This is a EDI server.",
            "title": name,
            "version": version,
            "termsOfService": "http://swagger.io/terms/",
            "contact": {},
            "license": {"name": "Apache 2.0", "url": "http://www.apache.org/licenses/LICENSE-2.0.html"},
        },
        "schemes": ["https"],
        "host": "",
        "basePath": "",
        "paths": {
            "/api/model/info": {"get": _info()},
            "/api/model/invoke": {"post": _invoke(signature, example, answer, methods)},
        },
    }


def _info() -> dict[str, Any]:
    return {
        "description": "Return a swagger info about model",
        "consumes": [],
        "produces": [JSON],
        "summary": "Info",
        "responses": {"200": {"description": "Info", "type": "object"}},
    }


def _invoke(
    signature: Signature,
    example: Mapping[str, Any] | None,
    answer: Mapping[str, Any] | None,
    methods: Sequence[str],
) -> dict[str, Any]:
    return {
        "description": "Execute prediction",
        "consumes": [JSON],
        "produces": [JSON],
        "summary": "Prediction",
        "parameters": [
            {
                "in": "body",
                "name": "PredictionParameters",
                "required": True,
                "schema": {"type": "object", "properties": input_properties(signature, example)},
            },
            *({"in": "query", "type": "string", **method} for method in method_parameter(methods)),
        ],
        "responses": {
            "200": {
                "description": "Results of prediction",
                "name": "PredictionResponse",
                "properties": output_properties(signature, answer),
            },
            # A stray key of the reference, kept for clients that compare documents.
            "type": "object",
        },
    }
