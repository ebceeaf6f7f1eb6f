"""Finding a docker engine and driving it through its own client."""

from mpack.engine.docker import RUN_LABEL, TIMED_OUT, Docker, Done

__all__ = ["RUN_LABEL", "TIMED_OUT", "Docker", "Done"]
