"""One module a kind of model, each with `load(config) -> Model`; frameworks are imported inside functions only."""

from __future__ import annotations

import importlib
import importlib.util
import pickle
import traceback
from collections.abc import Sequence
from typing import Any
from zipfile import BadZipFile

from mpack_runtime.config import ModelConfig, Sample
from mpack_runtime.errors import LoadFailure
from mpack_runtime.frame import Inputs
from mpack_runtime.signature import Signature

#: Kinds that a server may load before it forks its workers: they start no thread before they predict …
FORKABLE = frozenset({"sklearn"})
#: … unless one of these is installed: a pickle may hold their wrappers, whose OpenMP threads do not survive a fork.
THREADED = ("lightgbm", "xgboost", "catboost", "torch", "onnxruntime", "tensorflow")
KINDS = ("sklearn", "xgboost", "lightgbm", "onnx", "pytorch", "pyfunc", "odahu")


class Model:
    """A loaded model. What only the model itself can tell stands in `signature` and `sample` (None: nothing)."""

    signature: Signature | None = None
    sample: Sample | None = None
    #: A request to try, where the model tells one but no sample.
    example: Any = None
    #: What the model has and a client may ask for by name; `method` is asked where a request names none.
    methods: Sequence[str] = ("predict",)
    method: str = "predict"

    def predict(self, inputs: Inputs) -> Any:
        """The answer of the inputs' method, for `mpack_runtime.render`. Raises what the model raises, or BadRequest."""
        raise TypeError(f"{type(self).__name__} cannot predict")

    def output_names(self, method: str) -> tuple[str, ...]:
        """The columns that a method other than the model's own answers, where it answers as many; (): not known."""
        return ()

    def rowwise(self) -> bool:
        """True if each row is answered by itself, as far as its framework tells: rows of several requests may be tried
        as one."""
        return False


def forkable(config: ModelConfig) -> bool:
    """True if the model may be loaded before the server forks its workers, so that they share its memory."""
    return config.loader.kind in FORKABLE and not any(importlib.util.find_spec(name) for name in THREADED)


def load(config: ModelConfig) -> Model:
    """Loads the model that model.json names. Raises LoadFailure with a sentence; the traceback goes to stderr."""
    kind = config.loader.kind
    if kind not in KINDS:
        raise LoadFailure(f"model.json asks for a loader {kind!r}; this runtime has {', '.join(KINDS)}.")
    where = config.loader.path or config.root
    if not config.path.exists():
        raise LoadFailure(f"The model {where} is not in the image: {config.path} does not exist.")
    try:
        model: Model = importlib.import_module(f"mpack_runtime.loaders.{kind}").load(config)
    except LoadFailure:
        raise
    except ImportError as error:
        traceback.print_exc()
        missing = error.name or str(error)
        raise LoadFailure(
            f"The model {where} cannot be loaded ({kind}): {error}. It needs the Python module {missing!r}, which is"
            " not among its dependencies; add the package that brings it to the model's requirements."
        ) from error
    except (Exception, SystemExit) as error:  # whatever a framework or the model's own code raises
        traceback.print_exc()
        hint = " The file may be damaged, or of another version of the library." if _damaged(error) else ""
        lines = str(error).strip().splitlines() or [""]  # libraries append stack traces
        reason = f"{type(error).__name__}: {lines[0].rstrip('. ')}"
        raise LoadFailure(f"The model {where} cannot be loaded ({kind}): {reason}.{hint}") from error
    return model


def _damaged(error: BaseException) -> bool:
    return isinstance(error, (pickle.UnpicklingError, EOFError, AttributeError, UnicodeDecodeError, BadZipFile))
