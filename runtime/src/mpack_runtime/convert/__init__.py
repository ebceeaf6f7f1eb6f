"""A trained model as an ONNX graph: what `mpack build --optimize onnx` runs in a sandbox, never a server.

Standard estimators are skl2onnx's; trees are written by `forest`, in the numbers that their library computes in.
"""
