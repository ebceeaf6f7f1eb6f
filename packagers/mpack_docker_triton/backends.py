"""Triton's backends: names, platforms, the files that they look for."""

from __future__ import annotations

#: Backends that NVIDIA ships or documents; others bring libtriton_<name>.so in the model's directory.
KNOWN = frozenset(
    (
        *("python", "onnxruntime", "pytorch", "tensorflow", "tensorrt", "openvino", "ensemble", "caffe2"),
        *("identity", "repeat", "square", "fil", "dali", "tensorrtllm", "vllm"),
    )
)
#: Backend -> the names that it takes for the model in a version directory, file or directory.
FILES = {
    "python": ("model.py",),
    "onnxruntime": ("model.onnx",),
    "pytorch": ("model.pt",),
    "tensorflow": ("model.savedmodel", "model.graphdef"),
    "tensorrt": ("model.plan",),
    "openvino": ("model.xml",),
}
#: Backends that read inputs and outputs from the model itself where config.pbtxt names none.
COMPLETING = frozenset({"onnxruntime", "tensorflow", "tensorrt", "openvino", "dali", "vllm"})
#: Backends whose tensors are those of the model's file, name by name.
BY_NAME = frozenset({"onnxruntime", "tensorflow", "openvino"})
