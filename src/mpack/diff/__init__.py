"""Why two images differ: by configuration field, by layer, by file. Layers are read as streams; nothing is unpacked."""

from mpack.diff.compare import ImageDiff, LayerDiff, PackageChange, Side, compare

__all__ = ["ImageDiff", "LayerDiff", "PackageChange", "Side", "compare"]
