"""A registry as a target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mpack.builders import BuiltImage
from mpack.connections import Connection
from mpack.engine import Docker
from mpack.errors import UsageError
from mpack.oci.image import OciImage
from mpack.oci.imageindex import AnyImage
from mpack.oci.referrer import Attachment
from mpack.oci.store import Store
from mpack.records import dataclass
from mpack.registry.push import Pushed, push
from mpack.registry.reference import Reference, names_registry, parse_reference
from mpack.supply.attachments import attachments
from mpack.supply.cosign import require_cosign, require_key, sign
from mpack.targets.files import fetched, stored

if TYPE_CHECKING:
    from mpack.connections.login import RegistryLogin


@dataclass(frozen=True)
class RegistryTarget:
    """Pushes under a reference; the image then has it as a name in the store too.

    `attest`: its SBOM and provenance are attached there. `sign_key`: cosign signs it with this key. `connection`: what
    it is reached with; the image then gets no other name here.
    """

    reference: Reference
    attest: bool = True
    sign_key: str | None = None
    kind: str = "registry"
    connection: Connection | None = None

    @classmethod
    def through(cls, connection: Connection, name: str, attest: bool = True) -> RegistryTarget:
        """<uri>/<name> of a docker or ecr connection. Raises InputError connection-invalid or image-name-invalid."""
        from mpack.connections.login import login_of, reference_of

        login_of(connection)
        return cls(reference_of(connection, name), attest, connection=connection)

    @classmethod
    def parse(cls, text: str, attest: bool = True, sign_key: str | None = None) -> RegistryTarget:
        """Raises UsageError for a name without a host or with a digest and for a key file that is not there, InputError
        image-name-invalid, EnvironmentFault tool-missing where there is a key and no cosign."""
        if not names_registry(text):
            raise UsageError(
                "usage",
                f"{text!r} does not say which registry to push to.",
                "Write HOST[:PORT]/NAME[:TAG]; Docker Hub is docker.io/USER/NAME.",
            )
        reference = parse_reference(text)
        if reference.digest:
            raise UsageError(
                "usage", f"{text} names a digest; an image is pushed under a tag.", "Write HOST[:PORT]/NAME[:TAG]."
            )
        if sign_key is not None:
            require_cosign()
            require_key(sign_key)
        return cls(reference, attest, sign_key)

    def __str__(self) -> str:
        return f"{self.kind}:{self.reference}"

    def write(self, image: BuiltImage, name: str, store: Store, docker: Docker | None) -> str:
        with store.lease():
            if self.connection is None:
                return self.named(self.push(stored(image, name, store, docker), store))
            return self.named(self.push(fetched(image, store, docker), store))

    def check_login(self) -> None:
        """Raises EnvironmentFault registry-failed where the registry refuses the credentials, which takes no build to
        find out; nothing is sent."""
        from mpack.registry.connection import Connection as Wire

        with Wire(self.reference, actions="pull,push", login=self._login()) as wire:
            what = f"Logging in to {self.reference.registry}"
            answer = wire.request("GET", "/v2/", what)
            if answer.status_code in (401, 403):
                raise wire.push_refused(answer, what)

    def _login(self) -> RegistryLogin | None:
        if self.connection is None:
            return None
        from mpack.connections.login import login_of

        return login_of(self.connection)

    def push(self, image: AnyImage, store: Store) -> Pushed:
        """Pushes an image or index of the store, attaches its documents and signs it. The caller holds a lease."""
        login = self._login()
        if login is not None:
            login.make_repository(self.reference)
        pushed = push(image, self.reference, store, documents=self._documents(store), login=login)
        if self.sign_key is not None:
            sign(self.named(pushed), self.sign_key)
        record = store.find_record(image.digest)
        store.add_image(image, [str(self.reference)], role=record.role if record else "image")
        return pushed

    def _documents(self, store: Store) -> Callable[[OciImage], Sequence[Attachment]]:
        return lambda image: attachments(image, store, apart=True) if self.attest else ()

    def named(self, pushed: Pushed) -> str:
        """The reference to print: by digest, so that it means this image for ever."""
        return f"{self.reference.name}@{pushed.digest}"
