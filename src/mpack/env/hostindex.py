"""The host's index settings, read late."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpack.env.index import IndexSettings


class HostIndex:
    """`IndexSettings.from_host()`, read when it is first asked for something: most builds ask nothing."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._settings, name)

    @cached_property
    def _settings(self) -> IndexSettings:
        from mpack.env.index import IndexSettings

        return IndexSettings.from_host()
