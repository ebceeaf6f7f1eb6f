"""Base images: finding, building, picking and reading them."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from mpack.bases.bases import Bases as Bases
    from mpack.connections import Connection
    from mpack.engine import Docker
    from mpack.oci.image import OciImage
    from mpack.oci.store import Store
    from mpack.plan import BaseImage
    from mpack.registry.credentials import Login


def bases_of(store: Store, docker: Docker | None, pull: Connection | None = None) -> Bases:
    """`Bases(store, docker)`, made only for what is more than a base that the store has and a lock names.

    `pull`: the connection that bases of its registry are pulled with. Raises InputError connection-invalid.
    """
    login = None
    if pull is not None:
        from mpack.connections.login import login_of

        login = login_of(pull)
    return cast("Bases", _AtHand(store, docker, login))


class _AtHand:
    """Bases by their digests; anything else is passed on."""

    def __init__(self, store: Store, docker: Docker | None, login: Login | None) -> None:
        self._store = store
        self._docker = docker
        self._login = login

    def image(self, base: BaseImage) -> OciImage:
        return self._store.find(f"x@{base.digest}") or self._all.image(base)

    def locked(self, base: BaseImage) -> BaseImage:
        self.image(base)
        return base

    def __getattr__(self, name: str) -> Any:
        return getattr(self._all, name)

    @cached_property
    def _all(self) -> Bases:
        from mpack.bases.bases import Bases

        return Bases(self._store, self._docker, login=self._login)


def __getattr__(name: str) -> Any:
    # Loaded when asked for, with all that finds, builds and reads bases.
    if name == "Bases":
        from mpack.bases.bases import Bases

        return Bases
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
