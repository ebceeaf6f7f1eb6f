"""mpack turns a trained model into a verified, minimal, reproducible container image."""

__version__ = "0.1.0"
