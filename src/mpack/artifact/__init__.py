"""A trained model as it came: opened safely, sniffed by content, read once, immutable."""
