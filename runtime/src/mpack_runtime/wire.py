"""Requests in: one form for every road (REST, command line, self-check), checked against the signature.

**Bodies.** `application/json` (also `…+json` or no content type), an object with exactly one of

    {"columns": ["a", "b"], "data": [[1, 2], …]}     columns optional: values are then taken by position
    {"dataframe_split": {"columns": […], "data": […]}}
    {"dataframe_records": [{"a": 1, "b": 2}, …]}
    {"instances": [...]}                             rows, records, or one tensor's slices
    {"inputs": ...}                                  rows, columns by name, or tensors by name

and, beside it, `params` (an object). Other keys are ignored with a warning; a key that stands twice is refused.
`text/csv` as `mpack_runtime.wire_csv` says. UTF-8 only. Everything else is refused: 415 for the content type, 400 for
the content.

**Names.** Where request and signature both name the columns they are matched by name, in any order: a column that is
not there is an error if it is required, else all of it is missing; a column too many is dropped with a warning
(`strict`: an error). Without names on one side, values are taken by position and their number must be exact.

**Missing values.** JSON null (an empty cell in CSV) is a missing value, in and out. In a column that is float, double,
datetime, string, binary or any, it becomes NaN, NaT or None. boolean, integer and long have no missing value of their
own: null is refused where the column is required; where it is not, the column becomes float64 with NaN (objects with
None for booleans and for integers beyond 2^53). In a tensor of floats null is NaN; in any other tensor it is refused.
NaN and Infinity are not JSON, and are refused in CSV too; in answers they are null.

**Types.** boolean: true, false. integer, long: whole numbers in range (1.0 counts; above 2^53 only if written without
point or exponent). float, double: any number in range. string: strings. binary: base64 strings. datetime: ISO 8601
strings, "2024-05-01" or "2024-05-01T12:30:00.25+02:00"; a zone is converted to UTC, none is taken as UTC. any: what the
values are.

Rows are counted from 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mpack_runtime import wire_matrix, wire_tensors
from mpack_runtime.errors import BadRequest
from mpack_runtime.frame import Frame, Inputs, Tensors
from mpack_runtime.signature import Column, Param, Signature, Tensor
from mpack_runtime.wire_columns import Place, convert, describe, quote, read_text, sentence
from mpack_runtime.wire_csv import read_csv
from mpack_runtime.wire_json import parse

FORMS = ("data", "dataframe_split", "dataframe_records", "instances", "inputs")


def decode(
    body: bytes, content_type: str, signature: Signature, *, strict: bool = False, forms: Sequence[str] = FORMS
) -> Inputs:
    """A request's body as the model's inputs; `forms` are those that the road takes. Raises BadRequest."""
    media, options = _media_type(content_type)
    if not body.strip():
        raise BadRequest("Please provide data with this POST request: its body is empty.")
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRequest(f"Can not decode POST data using utf-8 charset: {error}.") from error
    if media == "csv":
        names, rows = read_csv(text, signature.input_names, options.get("header"))
        return from_rows(names, rows, signature, strict=strict, text=True)
    value = parse(text)
    if not isinstance(value, dict):
        raise BadRequest(f"The request is {describe(value)}; it must be a JSON object with one of: {', '.join(forms)}.")
    return _from_object(value, signature, strict, forms)


def _media_type(content_type: str) -> tuple[str, dict[str, str]]:
    """ "json" or "csv" and the content type's parameters. Raises BadRequest 415."""
    if content_type == "application/json":
        return "json", {}
    media, *rest = [part.strip() for part in content_type.split(";")]
    options = dict(part.lower().replace('"', "").partition("=")[::2] for part in rest if part)
    options = {name.strip(): value.strip() for name, value in options.items()}
    if options.get("charset", "utf-8") not in ("utf-8", "utf8", "us-ascii"):
        raise BadRequest(f"The charset {quote(options['charset'])} is not served; send UTF-8.", status=415)
    media = media.lower()
    if media in ("", "application/json", "text/json") or (media.startswith("application/") and media.endswith("+json")):
        return "json", options
    if media in ("text/csv", "application/csv"):
        return "csv", options
    raise BadRequest(
        f"The content type {quote(media)} is not served; send application/json or text/csv"
        ' (with curl: -H "Content-Type: application/json").',
        status=415,
    )


def _from_object(value: dict[str, Any], signature: Signature, strict: bool, forms: Sequence[str]) -> Inputs:
    """One JSON object, by the form it has."""
    found = [form for form in forms if form in value]
    if len(found) > 1:
        raise BadRequest(f"The request has {' and '.join(found)}; it must have exactly one of them.")
    if not found:
        raise BadRequest(f"Matrix is not provided: the request has none of {', '.join(forms)}.")
    form, content = found[0], value[found[0]]
    used = {form, "params"} | ({"columns"} if form == "data" else set())
    params, warnings = read_params(value.get("params"), signature.params, strict)
    unknown = [key for key in value if key not in used]
    warnings += _ignored("the request's key", unknown, strict)
    if form == "data":
        inputs = from_rows(value.get("columns"), content, signature, strict=strict)
    elif form == "dataframe_split":
        inputs = _from_split(content, signature, strict)
    elif form == "dataframe_records":
        inputs = from_records(content, signature, strict=strict)
    else:
        inputs = _from_tensors_or_rows(form, content, signature, strict)
    return with_params(inputs, params, warnings) if params or warnings else inputs


def with_params(inputs: Inputs, params: Mapping[str, Any], warnings: Sequence[str] = ()) -> Inputs:
    """The inputs with these parameters, and further warnings."""
    return replace(inputs, params=params, warnings=(*inputs.warnings, *warnings))


def _ignored(what: str, names: Sequence[str], strict: bool) -> list[str]:
    """Warnings for what is dropped; an error if strict."""
    if not names:
        return []
    listed = ", ".join(quote(name) for name in names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    if strict:
        raise BadRequest(sentence(f"{what} {listed} is not known to the model, which is strict about its inputs."))
    return [f"{what} {listed} was ignored"]


def _from_split(content: Any, signature: Signature, strict: bool) -> Inputs:
    if not isinstance(content, dict) or "data" not in content:
        fault = "has no data" if isinstance(content, dict) else f"is {describe(content)}"
        raise BadRequest(f'dataframe_split {fault}; it must be an object with "data" and "columns".')
    return from_rows(content.get("columns"), content["data"], signature, strict=strict)


def _from_tensors_or_rows(form: str, content: Any, signature: Signature, strict: bool) -> Inputs:
    """TensorFlow Serving's forms `instances` and `inputs`, for tensors and for tables."""
    if isinstance(content, list) and content and all(type(item) is dict for item in content):
        return from_records(content, signature, strict=strict)
    if isinstance(content, dict) and form == "inputs":
        return _from_named(content, signature, strict)
    tensors = signature.input_tensors
    scalar = len(tensors) == 1 and not tensors[0].shape and not isinstance(content, dict)
    if not isinstance(content, list) and not scalar:
        wanted = "a list" if form == "instances" else "a list or an object of lists"
        raise BadRequest(f"{form} is {describe(content)}; it must be {wanted}.")
    if tensors:
        return Tensors(wire_tensors.from_single(content, tensors))
    columns = signature.input_columns
    if len(columns) <= 1 and content and not any(type(item) is list for item in content):
        return from_rows(None, [[item] for item in content], signature, strict=strict)
    return from_rows(None, content, signature, strict=strict)


def _from_named(content: dict[str, Any], signature: Signature, strict: bool) -> Inputs:
    """Whole columns, or whole tensors, by name."""
    if not content:
        raise BadRequest("inputs is an empty object; it must name the model's inputs.")
    known = bool(signature.inputs)
    if signature.input_tensors or (not known and any(_nested(item) for item in content.values())):
        arrays, extra = wire_tensors.from_named(content, signature.input_tensors)
        return Tensors(arrays, warnings=tuple(_ignored("the input", extra, strict)))
    for name, values in content.items():
        if type(values) is not list:
            raise BadRequest(f"inputs: column {quote(name)} is {describe(values)}; it must be a list of values.")
    lengths = {len(values) for values in content.values()}
    if len(lengths) > 1:
        counts = ", ".join(f"{quote(name)} {len(values)}" for name, values in list(content.items())[:10])
        raise BadRequest(f"inputs: the columns differ in length ({counts}).")
    return from_rows(list(content), [list(row) for row in zip(*content.values())], signature, strict=strict)


def _nested(value: Any) -> bool:
    return type(value) is list and any(type(item) is list for item in value)


def from_records(records: Any, signature: Signature, *, strict: bool = False, first_row: int = 1) -> Inputs:
    """A list of objects, one a row. A required column must be in each of them."""
    if not isinstance(records, list) or not records:
        raise BadRequest(f"The records are {describe(records)}; they must be a list of at least one object.")
    if not signature.input_tensors and _alike(records):
        rows = [list(record.values()) for record in records]
        return from_rows(list(records[0]), rows, signature, strict=strict, first_row=first_row)
    for row, record in enumerate(records, first_row):
        if type(record) is not dict:
            raise BadRequest(f"Row {row} is {describe(record)}; it must be an object of column names and values.")
    names = list(dict.fromkeys(name for record in records for name in record))
    if not names:
        raise BadRequest(f"Row {first_row} is an empty object; it must name the model's columns.")
    required = [name for name in signature.input_names if _required(signature, name) and name in names]
    for row, record in enumerate(records, first_row):
        for name in required:
            if name not in record:
                raise BadRequest(f"Row {row} has no column {quote(name)}, which the model requires.")
    tensors = signature.input_tensors
    if tensors and (len(tensors) > 1 or tensors[0].name in names):
        slices = {name: [record.get(name) for record in records] for name in names}
        arrays, extra = wire_tensors.from_named(slices, tensors)
        return Tensors(arrays, warnings=tuple(_ignored("the input", extra, strict)))
    rows = [[record.get(name) for name in names] for record in records]
    return from_rows(names, rows, signature, strict=strict, first_row=first_row)


def _alike(records: list[Any]) -> bool:
    """Whether all are objects with the same names in one order, as programs write them."""
    return set(map(type, records)) == {dict} and len(set(map(tuple, records))) == 1 and bool(records[0])


def _required(signature: Signature, name: str) -> bool:
    return next((getattr(field, "required", True) for field in signature.inputs if field.name == name), False)


def from_rows(
    names: Any, rows: Any, signature: Signature, *, strict: bool = False, text: bool = False, first_row: int = 1
) -> Inputs:
    """Rows of JSON values (`text`: of CSV cells), with or without column names, as the model's inputs.

    `first_row` is the number of the first row, for messages about one chunk of many. Raises BadRequest.
    """
    if not isinstance(rows, (list, tuple)) or not rows:
        raise BadRequest(f"Matrix is not provided: data is {describe(rows)}; it must be a list of at least one row.")
    found = wire_matrix.table(names, rows, signature) if type(rows) is list and not text else None
    if found is not None:
        return found
    names = column_names(names)
    if signature.input_tensors and len(signature.input_tensors) == 1 and not text:
        if names is not None and type(rows[0]) is list and len(rows[0]) != len(names):
            raise BadRequest(f"Row {first_row} has {len(rows[0])} values, but columns names {len(names)}.")
        return Tensors(wire_tensors.from_single(rows, signature.input_tensors))
    if not signature.inputs and names is None and any(_nested(row) for row in rows):
        return Tensors(wire_tensors.from_single(rows, ()))
    width = len(names) if names is not None else len(signature.inputs) or None
    if signature.input_tensors and text and len(signature.input_tensors) == 1 and names is None:
        width = None
    _check_rows(rows, width, first_row)
    columns = list(zip(*rows))
    if signature.input_tensors:
        return _tensors_from_columns(names, columns, signature.input_tensors, strict, text)
    wanted, indices, warnings = select(names, len(columns), signature.input_columns, strict)
    data = []
    for position, (column, index) in enumerate(zip(wanted, indices), 1):
        place = Place(f"column {quote(column.name)}" if column.name is not None else f"column {position}", first_row)
        values = columns[index] if index is not None else (None,) * len(rows)
        if text:
            values = read_text(values, column.type, place)
        data.append(convert(values, column, place, nested=bool(signature.inputs)))
    named = tuple(column.name for column in wanted if column.name is not None)
    frame_names = named if len(named) == len(wanted) else None
    return Frame(frame_names, tuple(data), len(rows), warnings=tuple(warnings))


def column_names(names: Any) -> list[str] | None:
    """The request's column names as texts; whole numbers, as pandas writes unnamed columns, become their digits."""
    if names is None:
        return None
    if not isinstance(names, (list, tuple)):
        raise BadRequest(f"columns is {describe(names)}; it must be a list of column names.")
    if not names:
        return None
    for position, name in enumerate(names, 1):
        if type(name) not in (str, int):
            raise BadRequest(f"columns: name {position} is {describe(name)}; it must be a string.")
    texts = [str(name) for name in names]
    seen: set[str] = set()
    for name in texts:
        if name in seen:
            raise BadRequest(f"columns names {quote(name)} twice; each name must stand once.")
        seen.add(name)
    return texts


def _check_rows(rows: Sequence[Any], width: int | None, first_row: int) -> None:
    """Every row is a list of `width` values (None: of as many as the first)."""
    if not set(map(type, rows)) <= {list, tuple}:
        row, value = next((row, value) for row, value in enumerate(rows, first_row) if type(value) not in (list, tuple))
        raise BadRequest(f"Row {row} is {describe(value)}; it must be a list of values, one a column.")
    width = len(rows[0]) if width is None else width
    if set(map(len, rows)) != {width}:
        row, count = next((row, len(value)) for row, value in enumerate(rows, first_row) if len(value) != width)
        raise BadRequest(
            f"Row {row} has {count} value{'' if count == 1 else 's'}, where {width} {'is' if width == 1 else 'are'} "
            "expected, one a column."
        )
    if not width:
        raise BadRequest(f"Matrix is not provided: row {first_row} is empty.")


def select(
    names: list[str] | None, width: int, columns: tuple[Column, ...], strict: bool
) -> tuple[tuple[Column, ...], list[int | None], list[str]]:
    """The model's columns, each with its position in the request (None: not there), and warnings.

    Raises BadRequest.
    """
    if not columns:
        free = tuple(Column(name) for name in names) if names is not None else (Column(None),) * width
        return free, list(range(width)), []
    wanted = [column.name for column in columns]
    if names is None or None in wanted:
        if width != len(columns):
            raise BadRequest(f"The request has {width} columns; the model takes {len(columns)}.")
        return columns, list(range(width)), []
    position = {name: index for index, name in enumerate(names)}
    missing = [column.name for column in columns if column.required and column.name not in position]
    if missing:
        listed = ", ".join(quote(str(name)) for name in missing)
        there = ", ".join(quote(name) for name in names[:20])
        raise BadRequest(f"Missing column{'s' if len(missing) > 1 else ''} {listed}: the request has {there}.")
    warnings = _ignored("the column", [name for name in names if name not in set(wanted)], strict)
    return columns, [position.get(str(name)) for name in wanted], warnings


def _tensors_from_columns(
    names: list[str] | None, columns: list[tuple[Any, ...]], tensors: tuple[Tensor, ...], strict: bool, text: bool
) -> Tensors:
    """A table for a model of tensors: one tensor takes the whole table, several take a column each."""
    if len(tensors) > 1 and names is None:
        if len(columns) != len(tensors):
            raise BadRequest(f"The request has {len(columns)} columns; the model takes {len(tensors)} inputs.")
        names = [str(tensor.name) for tensor in tensors]
    if text:
        dtypes = {tensor.name: tensor.dtype for tensor in tensors}
        single = [tensors[0].dtype] * len(columns)
        kinds = single if len(tensors) == 1 else [dtypes.get(name, "any") for name in names or ()]
        columns = [
            read_text(values, wire_tensors.column_type(dtype), Place(f"column {position}"))
            for position, (values, dtype) in enumerate(zip(columns, kinds), 1)
        ]
    if len(tensors) == 1:
        return Tensors(wire_tensors.from_single([list(row) for row in zip(*columns)], tensors))
    content = {name: list(values) for name, values in zip(names or (), columns)}
    arrays, extra = wire_tensors.from_named(content, tensors)
    return Tensors(arrays, warnings=tuple(_ignored("the column", extra, strict)))


def read_params(given: Any, params: tuple[Param, ...], strict: bool) -> tuple[dict[str, Any], list[str]]:
    """The request's inference parameters, checked against the signature's; only those that were given."""
    if given is None:
        return {}, []
    if not isinstance(given, dict):
        raise BadRequest(f"params is {describe(given)}; it must be an object of names and values.")
    known = {param.name: param for param in params}
    warnings = _ignored("the parameter", [name for name in given if name not in known], strict)
    return {name: _param(value, known[name]) for name, value in given.items() if name in known}, warnings


def _param(value: Any, param: Param) -> Any:
    place = Place(f"parameter {quote(param.name)}", None)
    column = Column(param.name, param.type if param.type in _PARAM_TYPES else "any")
    values = value if type(value) is list and type(param.default) is list else [value]
    array = convert(tuple(values), column, place, nested=True)
    if array.dtype.kind == "M":
        array = array.astype("datetime64[us]")
    plain = array.tolist()
    return plain if values is value else plain[0]


_PARAM_TYPES = ("boolean", "integer", "long", "float", "double", "string", "datetime")
_EXAMPLES = {
    "boolean": True,
    "string": "",
    "binary": "",
    "datetime": "2024-01-01T00:00:00",
    "float": 0.0,
    "double": 0.0,
}


def example(signature: Signature) -> dict[str, Any] | None:
    """One row of plausible values as a request; None where the inputs are unknown or are very large tensors."""
    if signature.input_columns:
        row = [_EXAMPLES.get(column.type, 0) for column in signature.input_columns]
        names = signature.input_names
        return {"columns": list(names), "data": [row]} if names else {"data": [row]}
    arrays: dict[str, Any] = {}
    for tensor in signature.input_tensors:
        shape = tuple(1 if dim < 0 else dim for dim in tensor.shape)
        if int(np.prod(shape, dtype=np.int64)) > 4096:
            return None
        fill: Any = _EXAMPLES.get(wire_tensors.column_type(tensor.dtype), 0)
        arrays[tensor.name or ""] = np.full(shape, fill, dtype=object).tolist()
    if not arrays:
        return None
    return {"inputs": arrays if len(arrays) > 1 or signature.input_names else next(iter(arrays.values()))}
