"""`mpack build --optimize onnx`: the model converted in a sandbox, and the artifact as it is then."""
