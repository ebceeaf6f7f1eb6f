"""PyTorch: a TorchScript file, or a whole pickled module (as MLflow saves it)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mpack_runtime import threads
from mpack_runtime.config import ModelConfig
from mpack_runtime.errors import LoadFailure
from mpack_runtime.frame import Array, Inputs, Tensors
from mpack_runtime.loaders import Model

MLFLOW_FILE = "data/model.pth"


class TorchModel(Model):
    """A module called with one tensor an input, in the order of the signature; floats in the module's own precision."""

    def __init__(self, module: Any) -> None:
        self._module = module.eval()
        self._dtype = next((item.dtype for item in module.parameters() if item.dtype.is_floating_point), None)

    def predict(self, inputs: Inputs) -> Any:
        import torch

        arrays = list(inputs.arrays.values()) if isinstance(inputs, Tensors) else [inputs.matrix()]
        with torch.no_grad():
            return self._module(*(self._tensor(array) for array in arrays))

    def _tensor(self, array: Array) -> Any:
        import torch

        tensor = torch.from_numpy(array)
        return tensor.to(self._dtype) if self._dtype is not None and tensor.is_floating_point() else tensor


def load(config: ModelConfig) -> Model:
    """Reads the module on the CPU."""
    import torch

    torch.set_num_threads(threads.per_worker())
    path = _file(config.path)
    try:
        return TorchModel(torch.jit.load(str(path), map_location="cpu"))
    except RuntimeError:  # not TorchScript
        module = torch.load(str(path), map_location="cpu", weights_only=False)
    if not isinstance(module, torch.nn.Module):
        raise LoadFailure(f"The model {path.name} holds a {type(module).__name__}, not a module that can be called.")
    return TorchModel(module)


def _file(path: Path) -> Path:
    """The module's file, where `path` is an MLflow model directory."""
    return path / MLFLOW_FILE if path.is_dir() else path
