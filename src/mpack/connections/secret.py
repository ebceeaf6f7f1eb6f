"""A reference to a secret. The secret itself is looked up when it is used, and is in no repr, log, plan or record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field

from mpack.records import dataclass


@dataclass(frozen=True)
class Secret:
    """`source` says where it comes from, for messages: "spec.password of docker-ci", "the variable CI_PASSWORD"."""

    source: str
    _look_up: Callable[[], str] = field(repr=False, compare=False, default=str)

    def reveal(self) -> str:
        """The secret. Raises EnvironmentFault where it is not at its source."""
        return self._look_up()
