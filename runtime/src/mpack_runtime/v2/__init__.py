"""The Open Inference Protocol (V2): signatures, requests and answers as named tensors. Knows no HTTP and no Triton."""
