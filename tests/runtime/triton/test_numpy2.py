"""The guard beside servers that do not need it, or that it cannot help.

The backend here is a fake that makes tensors in Python; what the guard does for the real one is shown in test_server.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mpack_runtime.errors import LoadFailure
from mpack_runtime.triton import numpy2

pytestmark = pytest.mark.skipif(np.__version__.startswith("1."), reason="the guard is for numpy 2 alone")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a process that has made no tensor yet; numpy's own table is put back."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import numpy.core.multiarray as legacy

    monkeypatch.setattr(numpy2, "_maker", None)
    monkeypatch.setattr(legacy, "_ARRAY_API", legacy._ARRAY_API)
    yield


def backend(read: Any) -> Any:
    """A fake backend whose tensors read their arrays by `read`."""

    class Tensor:
        def __init__(self, name: str, array: Any) -> None:
            self.array = array

        @classmethod
        def from_dlpack(cls, name: str, capsule: Any) -> Any:
            holder = SimpleNamespace()
            holder.array = np.from_dlpack(_Held(capsule))
            return cls(name, holder.array)

        def as_numpy(self) -> Any:
            return read(self.array)

    return SimpleNamespace(Tensor=Tensor)


class _Held:
    def __init__(self, capsule: Any) -> None:
        self.capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


def test_a_server_that_knows_numpy_2_is_left_alone() -> None:
    """Its own Tensor makes the outputs, and numpy's table is the original again."""
    legacy = sys.modules["numpy.core.multiarray"]
    original = legacy._ARRAY_API
    utils = backend(lambda array: array)
    assert numpy2.tensor_maker(utils) is utils.Tensor and legacy._ARRAY_API is original
    assert not hasattr(utils, "serialize_byte_tensor")


@pytest.mark.parametrize("read", [lambda array: np.zeros_like(array), lambda array: array.ravel(), lambda array: 1 / 0])
def test_a_server_that_reads_wrong_is_refused(read: Any) -> None:
    """Better no model than wrong numbers."""
    with pytest.raises(LoadFailure, match=r"do not work together: .* Let the model require numpy<2"):
        numpy2.tensor_maker(backend(read))


def test_another_layout_of_numpy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is changed where numpy's structs are not the known ones."""
    legacy = sys.modules["numpy.core.multiarray"]
    original = legacy._ARRAY_API
    monkeypatch.setattr(numpy2, "_ITEM_SIZE", 48)
    with pytest.raises(LoadFailure, match="keeps its dtypes in another form"):
        numpy2.tensor_maker(backend(lambda array: array))
    assert legacy._ARRAY_API is original
