"""docker-triton: models behind NVIDIA Triton Inference Server."""
