"""Answers in the command line's formats: joined over chunks, and those that a format cannot hold."""

from __future__ import annotations

import io
import json
from itertools import chain
from typing import Any

import numpy as np
import pytest
from mpack_runtime.cli.sink import join_rows, sink
from mpack_runtime.cli.source import FORMATS
from mpack_runtime.errors import ModelFailure
from mpack_runtime.frame import Prediction


@pytest.mark.parametrize("value", [["x\ud800"], [1, [2]], [1, "x"], [2**70]])
@pytest.mark.parametrize("form", FORMATS)
def test_an_answer_that_a_format_cannot_hold_is_the_models(form: str, value: Any) -> None:
    """A sentence, no bug of the runtime's; JSON holds all of them."""
    stream = io.BytesIO()
    try:
        writer = sink(form, stream)
        writer.write(Prediction(value))
        writer.close()
    except ModelFailure as error:
        assert form in ("csv", "parquet") and error.message.startswith("The model's answer ")
    else:
        assert stream.getvalue() and (form, value) not in [("csv", ["x\ud800"]), ("parquet", [1, [2]])]


def test_a_chunk_may_be_answered_with_nothing() -> None:
    """JSON of lists of which some are empty, gone on with or not, is the JSON of all of them."""
    for chunks in ([[1, 2], [], [3]], [[], [1]], [[], []], [[1], []]):
        for resumed in (False, True):
            stream = io.BytesIO()
            writer = sink("json", stream)
            for chunk in chunks:
                writer.write(Prediction(chunk))
                if resumed:
                    writer = sink("json", stream, json.loads(json.dumps(writer.state())))
            writer.close()
            assert json.loads(stream.getvalue()) == {"prediction": [*chain(*chunks)], "columns": []}


def test_rows_join_to_the_parquet_file_that_is_written_at_once() -> None:
    """--resume's detour gives the same bytes."""
    chunks = [Prediction(np.arange(4) / 3), Prediction([1.5, None]), Prediction(np.array([np.nan, 2.0]))]
    rows, joined, direct = io.BytesIO(), io.BytesIO(), io.BytesIO()
    for stream, form in ((rows, "rows"), (direct, "parquet")):
        writer = sink(form, stream)
        for chunk in chunks:
            writer.write(chunk)
        writer.close()
    join_rows(io.BytesIO(rows.getvalue()), joined)
    assert joined.getvalue() == direct.getvalue()
