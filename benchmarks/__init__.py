"""mpack against named peers, in one run: see README.md. Never a timed test: the figures are read, not asserted."""
