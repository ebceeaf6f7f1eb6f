"""What runs inside Triton images: the start of the server, the model in its Python backend, the self-check."""
