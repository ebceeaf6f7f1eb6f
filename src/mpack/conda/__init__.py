"""Conda environments: solved, locked, fetched and installed by py-rattler, which runs in a process of its own."""
