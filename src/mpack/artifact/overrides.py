"""mpack.toml: what its author says of an artifact, over what the artifact says of itself.

Where it is looked for:

1. `<artifact>.mpack.toml`, the artifact's file or directory name with that suffix, in the same directory;
2. else, for an artifact that is a file, `mpack.toml` in the same directory. Both are *beside* the artifact, so they are
   the user's own; an artifact from a URL has none;
3. `mpack.toml` at the root *inside* the artifact (a wrapping folder taken off). It may not hold `trust`, `limits`,
   `base` or `system-packages`: these are for the user to grant, not for the artifact to take.

Where both exist, the one beside wins key by key; a table counts as one key.

    name = "wine"                          version = "1.2"             python = "3.11"
    requirements = ["pandas==2.2.1"]       # instead of the artifact's own
    extra-requirements = ["pyarrow"]       # added to them
    system-packages = ["libgl1"]           base = "python:3.11-slim"

    [trust]                                [limits]
    modules = ["mycompany"]                max-size = "200GB"
    pickle = false                         max-entries = 300000
                                           max-ratio = 500
    [[signature.inputs]]                   [[signature.outputs]]
    name = "age"                           name = "score"
    type = "long"                          dtype = "float32"
    required = true                        shape = [-1, 1]

    [sample]                               [loader]
    request = { data = [[1, 2]] }          class = "XGBClassifier"     # xgboost, lightgbm
    expected = { prediction = [1] }        method = "predict_proba"    # sklearn
    tolerance = 1e-4                       entrypoint = "entry"        # odahu
                                           workdir = "model"           # odahu

`request-file` and `expected-file` name JSON files relative to mpack.toml instead. `expected` without a request is the
answer to the artifact's own sample.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from mpack.artifact.beside import FILE_NAME, find_beside
from mpack.artifact.limits import Limits, parse_size
from mpack.artifact.model import Tree, Trust
from mpack.errors import InputError, UsageError
from mpack.signature import COLUMN_TYPES, Signature

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: What only a file beside the artifact may say.
USERS_OWN = ("trust", "limits", "base", "system-packages")
_MAX_SIZE = 1 << 20
_MAX_SAMPLE = 64 << 20

Text = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Dotted = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$")]
DebianName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9+.-]+$")]


class Table(BaseModel):
    """A table of mpack.toml: keys with dashes, no unknown ones."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=lambda name: name.replace("_", "-"))


class TrustTable(Table):
    modules: list[Identifier] = []
    pickle: bool = Field(default=False, strict=True)


class LimitsTable(Table):
    max_size: str | None = None
    max_entries: int | None = Field(default=None, ge=1, strict=True)
    max_ratio: int | None = Field(default=None, ge=1, strict=True)


class FieldTable(Table):
    """A column (`type`) or a tensor (`dtype`, `shape`)."""

    name: Text | None = None
    type: str | None = None
    required: bool = Field(default=True, strict=True)
    dtype: Text | None = None
    shape: list[int] | None = None

    def to_json(self) -> dict[str, Any]:
        """The field as `Signature.from_json` takes it. Raises ValueError."""
        if self.dtype is not None and self.shape is not None and self.type is None:
            return {"kind": "tensor", "name": self.name, "dtype": self.dtype, "shape": self.shape}
        if self.type is None or self.dtype is not None or self.shape is not None:
            raise ValueError("a field has either a type, or a dtype and a shape")
        if self.type not in COLUMN_TYPES:
            raise ValueError(f"the type {self.type!r} is not one of {', '.join(COLUMN_TYPES)}")
        return {"kind": "column", "name": self.name, "type": self.type, "required": self.required}


class SignatureTable(Table):
    inputs: list[FieldTable] = []
    outputs: list[FieldTable] = []

    def to_signature(self) -> Signature:
        """Raises ValueError."""
        return Signature.from_json(
            {"inputs": [item.to_json() for item in self.inputs], "outputs": [item.to_json() for item in self.outputs]}
        )


class SampleTable(Table):
    request: dict[str, Any] | None = None
    request_file: Text | None = None
    expected: Any = None
    expected_file: Text | None = None
    tolerance: float = Field(default=1e-6, ge=0, allow_inf_nan=False)


class LoaderTable(Table):
    class_: Identifier | None = Field(default=None, alias="class")
    method: Identifier | None = None
    entrypoint: Dotted | None = None
    workdir: Text | None = None


class Overrides(Table):
    """One mpack.toml, or two merged. Files that `sample` names are read in already."""

    name: Text | None = None
    version: Text | None = None
    python: Annotated[str, StringConstraints(pattern=r"^3\.\d+(\.\d+)?$")] | None = None
    requirements: list[Text] | None = None
    extra_requirements: list[Text] = []
    system_packages: list[DebianName] = []
    base: Text | None = None
    trust: TrustTable = TrustTable()
    limits: LimitsTable = LimitsTable()
    signature: SignatureTable | None = None
    sample: SampleTable | None = None
    loader: LoaderTable = LoaderTable()

    def over(self, base: Overrides) -> Overrides:
        """These, with the keys that are not set here taken from `base`."""
        set_here = {key: getattr(self, key) for key in self.model_fields_set}
        return base.model_copy(update=set_here)

    def widen(self, trust: Trust) -> Trust:
        """`trust` with what mpack.toml grants added."""
        return Trust(
            trust.modules | frozenset(self.trust.modules),
            trust.pickle or self.trust.pickle,
            trust.keep_mlflow,
            trust.gpu,
            trust.conda,
        )

    def limits_over(self, limits: Limits) -> Limits:
        """`limits`, with mpack.toml's where they stand at their default."""
        default = Limits()
        table = self.limits
        own = Limits(
            total=default.total if table.max_size is None else parse_size(table.max_size),
            entries=table.max_entries or default.entries,
            ratio=table.max_ratio or default.ratio,
        )
        return limits.over(own)


def read_beside(location: str) -> Overrides:
    """What stands beside the artifact; empty if nothing does. Raises InputError override-invalid."""
    path = find_beside(location)
    if path is None:
        return Overrides()
    try:
        data = _bounded(path, _MAX_SIZE)
    except OSError as error:
        raise _invalid(path.name, f"it cannot be read: {error.strerror}") from error
    return _parse(data, path.name, lambda name: _bounded(path.parent / name, _MAX_SAMPLE))


def read_inside(tree: Tree) -> Overrides:
    """What stands inside the artifact; empty if nothing does. Raises InputError override-invalid."""
    if FILE_NAME not in tree:
        return Overrides()
    where = f"{FILE_NAME} inside the artifact"
    return _parse(tree.read(FILE_NAME, _MAX_SIZE), where, lambda name: tree.read(name, _MAX_SAMPLE), USERS_OWN)


def _bounded(path: Path, limit: int) -> bytes:
    with path.open("rb") as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise OSError(0, f"{path.name} has more than {limit} bytes")
    return data


def _invalid(where: str, reason: str, hint: str = "") -> InputError:
    return InputError("override-invalid", f"{where} is wrong: {reason}.", hint or "Correct it, or remove it.")


def _parse(data: bytes, where: str, read: Callable[[str], bytes], forbidden: tuple[str, ...] = ()) -> Overrides:
    try:
        # A byte order mark is what some editors on Windows write.
        document = tomllib.loads(data.decode("utf-8-sig"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise _invalid(where, f"it is not TOML: {error}") from error
    if taken := [key for key in forbidden if key in document]:
        raise InputError(
            "override-invalid",
            f"{where} may not set {', '.join(taken)}: that is for you to grant, not for the artifact to take.",
            "If you mean it, set it in <artifact>.mpack.toml beside the artifact.",
        )
    try:
        overrides = Overrides.model_validate(document)
        if overrides.signature is not None:
            overrides.signature.to_signature()
        if overrides.limits.max_size is not None:
            parse_size(overrides.limits.max_size)
    except ValidationError as error:
        raise _invalid(where, "; ".join(_reasons(error))) from error
    except (ValueError, UsageError) as error:
        raise _invalid(where, str(error).splitlines()[0].rstrip(".")) from error
    if overrides.sample is None:
        return overrides
    return overrides.model_copy(update={"sample": _with_files(overrides.sample, where, read)})


def _reasons(error: ValidationError) -> list[str]:
    """One clause a fault, naming the key."""
    reasons = []
    for item in error.errors(include_url=False):
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            reasons.append(f"{key} is no key that mpack knows")
        elif item["type"] == "string_type":
            reasons.append(f"{key} must be a string in quotes, not {item['input']!r}")
        else:
            reasons.append(f"{key}: {item['msg'][:1].lower()}{item['msg'][1:]}, not {str(item['input'])[:80]!r}")
    return reasons


def _with_files(sample: SampleTable, where: str, read: Callable[[str], bytes]) -> SampleTable:
    """The sample with the files that it names in place of their names, all of it JSON."""
    values: dict[str, Any] = {"request": sample.request, "expected": sample.expected, "tolerance": sample.tolerance}
    for key, name in (("request", sample.request_file), ("expected", sample.expected_file)):
        if name is None:
            continue
        if values[key] is not None:
            raise _invalid(where, f"sample.{key} and sample.{key}-file are both given")
        try:
            values[key] = json.loads(read(name))
        except (OSError, KeyError, ValueError, RecursionError) as error:
            reason = "there is no such file" if isinstance(error, (FileNotFoundError, KeyError)) else str(error)
            raise _invalid(where, f"sample.{key}-file = {name!r}: {reason}") from error
    for key in ("request", "expected"):
        try:
            json.dumps(values[key], allow_nan=False)
        except (TypeError, ValueError) as error:
            raise _invalid(where, f"sample.{key} is not JSON ({error})", "Write dates as strings.") from error
    if values["request"] is not None and not isinstance(values["request"], dict):
        raise _invalid(where, "sample.request is not an object", 'Write it like {"data": [[1, 2]]}.')
    return SampleTable(**values)
