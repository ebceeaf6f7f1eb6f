"""`info`: the input and output schema, as the reference prints them."""

from __future__ import annotations

import json
from typing import TextIO

from mpack_runtime import wire
from mpack_runtime.config import ModelConfig
from mpack_runtime.rest.schema import input_properties, output_properties
from mpack_runtime.service import Service


def info(config: ModelConfig, out: TextIO) -> int:
    """Prints both schemas; the model is loaded only if model.json does not tell them."""
    signature, example = config.signature, config.sample.request if config.sample else None
    if signature is None or not signature.inputs or not signature.outputs:
        service = Service.load(config)
        signature, example = service.signature, service.example()
    elif example is None:
        example = wire.example(signature)
    answer = config.sample.expected if config.sample else None
    inputs = input_properties(signature, example if isinstance(example, dict) else None)
    outputs = output_properties(signature, answer if isinstance(answer, dict) else None)
    print("Input schema:", json.dumps(inputs, indent=4), sep="\n", file=out)
    print("Output schema:", json.dumps(outputs, indent=4), sep="\n", file=out)
    return 0
