"""`python -m mpack_runtime.convert --tolerance T`: the image's model as ONNX, on stdout.

The first line is JSON, and after it comes the file, if there is one:

    {"status": "converted", "options": {…}, "rows": 9000, "max_rel_diff": 0.0, "lost": null,
     "size": 938377}
    {"status": "kept", "reason": "the operator … is not implemented"}

The exit code is 0 either way; anything else is a fault of the sandbox or a bug.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpack_runtime.stdio import results

if TYPE_CHECKING:
    from mpack_runtime.config import ModelConfig
    from mpack_runtime.frame import Inputs
    from mpack_runtime.loaders import Model

# Sums of BLAS depend on the number of threads; few are also faster beside other work.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

GRAPH = "model.onnx"


def main() -> int:
    """Converts and checks; what the model prints goes to stderr."""
    tolerance = float(sys.argv[sys.argv.index("--tolerance") + 1])
    with results() as out:
        found, graph = _attempt(tolerance)
        out.write(json.dumps(found, allow_nan=False) + "\n")
        out.flush()
        out.buffer.write(graph)
    return 0


def _attempt(tolerance: float) -> tuple[dict[str, Any], bytes]:
    from mpack_runtime.convert.forest import Unsupported
    from mpack_runtime.errors import RuntimeFault

    try:
        return convert(tolerance)
    except Unsupported as error:
        return {"status": "kept", "reason": str(error)}, b""
    except RuntimeFault as error:
        return {"status": "kept", "reason": error.message.rstrip(".")}, b""
    except Exception as error:  # a converter's own fault must not end the build
        traceback.print_exc()
        return {"status": "kept", "reason": f"{type(error).__name__}: {error}"}, b""


def convert(tolerance: float) -> tuple[dict[str, Any], bytes]:
    """What came of it, and the file. Raises Unsupported."""
    import orjson

    from mpack_runtime.config import ModelConfig
    from mpack_runtime.convert import graph, questions, refusals, subject
    from mpack_runtime.service import Service

    config = ModelConfig.load()
    service = Service.load(config)
    model = service.model
    estimator, shape = subject.estimator_of(model), subject.shape_of(service)
    words = subject.words_of(estimator, shape)
    kinds = subject.kinds_of(estimator, shape, words)
    made = graph.convert(estimator, shape.names, kinds)
    outputs = subject.outputs_of(service, made.outputs)
    numbers = subject.numbers_of(estimator, shape)
    before = None if made.direct else subject.before_trees(estimator)
    tests = made.tests if kinds == ["matrix"] and (made.direct or before is not None) else ()
    for feature, value in tests if made.direct else ():
        numbers[feature].append(value)
    request = service.sample.request if service.sample else None
    sample = service.decode(orjson.dumps(request)) if request is not None else None
    drawn = questions.columns(shape, sample, words, numbers)
    rows = list(questions.groups(drawn, tests, before))
    first = refusals.accepted(model, shape, rows[0], sample)
    options: dict[str, Any] = {
        "inputs": kinds,
        "signature": subject.told_json(model),
        "columns": len(shape.names),
        "methods": {name: {"output": told, **refusals.form(model, first, name)} for name, told in outputs.items()},
        "rowwise": model.rowwise(),
        **refusals.probe(model, shape, rows[0], double=made.double),
    }
    lost = [] if made.double else [made.lost]
    if refusals.answers_beyond(model, shape, rows[0], options["limit"]):
        lost.append(f"refuses numbers beyond {options['limit']:.2g}")
    asked = [*([] if sample is None else [sample]), *(shape.inputs(group) for group in rows)]
    asked += refusals.missing(shape, rows[0])
    large = list(refusals.large(shape, rows[0], options["limit"]))
    told = _compared(config, model, made.model, options, tolerance, asked, large)
    size = len(made.model)
    return {"status": "converted", **told, "lost": " and ".join(lost) or None, "size": size}, made.model


def _compared(
    config: ModelConfig,
    model: Model,
    graph: bytes,
    options: dict[str, Any],
    tolerance: float,
    asked: Sequence[Inputs],
    large: Sequence[Inputs],
) -> dict[str, Any]:
    """The options and figures of a graph that agrees; methods beside the model's own only if they do.

    Raises Unsupported.
    """
    from mpack_runtime import loaders
    from mpack_runtime.config import LoaderConfig
    from mpack_runtime.convert.agree import Agreement
    from mpack_runtime.convert.forest import Unsupported

    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        (root / GRAPH).write_bytes(graph)
        converted = loaders.load(replace(config, root=root, loader=LoaderConfig("onnx", GRAPH, {"converted": options})))
    own, *others = options["methods"]
    agreement = Agreement(model, converted, tolerance, own)
    agreement.all(asked, large)
    if not agreement.rows:
        raise Unsupported("the model answers none of the rows that it is asked")
    for method in others:
        further = Agreement(model, converted, tolerance, method)
        try:
            further.all(asked, large)
        except Unsupported as error:
            print(f"{method}: {error}", file=sys.stderr)
            del options["methods"][method]
        else:
            agreement.largest = max(agreement.largest, further.largest)
    return {"options": {"converted": options}, "rows": agreement.rows, "max_rel_diff": agreement.largest}


if __name__ == "__main__":
    sys.exit(main())
