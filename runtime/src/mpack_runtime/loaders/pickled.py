"""Samples that only the image can read: pickled DataFrames, arrays and lists beside the model."""

from __future__ import annotations

import pickle
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from mpack_runtime.config import Sample
from mpack_runtime.errors import LoadFailure
from mpack_runtime.render import plain, render


def resolve(sample: Sample, root: Path) -> Sample:
    """The sample with the JSON of its files (paths relative to `root`). Raises LoadFailure."""
    if sample.request is None and sample.input_file:
        sample = replace(sample, request=to_request(read(root / sample.input_file)))
    if sample.expected is None and sample.output_file:
        expected = render(read(root / sample.output_file)).value
        return replace(sample, expected={"prediction": plain(expected, numpy=False)})
    return sample


def read(path: Path) -> Any:
    """The pickled object. Raises LoadFailure with a sentence."""
    try:
        try:
            import pandas as pd
        except ImportError:
            return pickle.loads(path.read_bytes())  # noqa: S301 - the image exists to run what the artifact brought
        return pd.read_pickle(path)  # noqa: S301
    except Exception as error:
        traceback.print_exc()
        raise LoadFailure(f"The sample {path.name} cannot be read: {type(error).__name__}: {error}.") from error


def to_request(value: Any) -> Any:
    """The request that asks for what a sample holds: its columns, if they have names, and its rows."""
    if isinstance(value, dict):
        return plain(value, numpy=False)
    prediction = render(value)
    rows = [row if isinstance(row, list) else [row] for row in plain(prediction.value, numpy=False)]
    named = prediction.columns and any(type(name) is str for name in value.columns)
    return {"columns": list(prediction.columns), "data": rows} if named else {"data": rows}
