"""A registry as a target."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mpack.builders import BuiltImage
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
from mpack.targets.files import stored


@dataclass(frozen=True)
class RegistryTarget:
    """Pushes under a reference; the image then has it as a name in the store too.

    `attest`: its SBOM and provenance are attached there. `sign_key`: cosign signs it with this key.
    """

    reference: Reference
    attest: bool = True
    sign_key: str | None = None
    kind: str = "registry"

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
            return self.named(self.push(stored(image, name, store, docker), store))

    def push(self, image: AnyImage, store: Store) -> Pushed:
        """Pushes an image or index of the store, attaches its documents and signs it. The caller holds a lease."""
        pushed = push(image, self.reference, store, documents=self._documents(store))
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
