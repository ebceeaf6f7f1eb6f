"""What runs inside the images that mpack builds."""

__version__ = "0.1.0"
