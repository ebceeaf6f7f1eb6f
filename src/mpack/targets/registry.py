"""A registry as a target."""

from __future__ import annotations

from dataclasses import dataclass

from mpack.builders import BuiltImage
from mpack.engine import Docker
from mpack.errors import UsageError
from mpack.oci.imageindex import AnyImage
from mpack.oci.store import Store
from mpack.registry.push import Pushed, push
from mpack.registry.reference import Reference, names_registry, parse_reference
from mpack.targets.files import stored


@dataclass(frozen=True)
class RegistryTarget:
    """Pushes under a reference; the image then has it as a name in the store too."""

    reference: Reference
    kind: str = "registry"

    @classmethod
    def parse(cls, text: str) -> RegistryTarget:
        """Raises UsageError for a name without a host or with a digest, InputError image-name-invalid."""
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
        return cls(reference)

    def __str__(self) -> str:
        return f"{self.kind}:{self.reference}"

    def write(self, image: BuiltImage, name: str, store: Store, docker: Docker | None) -> str:
        with store.lease():
            return self.named(self.push(stored(image, name, store, docker), store))

    def push(self, image: AnyImage, store: Store) -> Pushed:
        """Pushes an image or index of the store. The caller holds a lease."""
        pushed = push(image, self.reference, store)
        record = store.find_record(image.digest)
        store.add_image(image, [str(self.reference)], role=record.role if record else "image")
        return pushed

    def named(self, pushed: Pushed) -> str:
        """The reference to print: by digest, so that it means this image for ever."""
        return f"{self.reference.name}@{pushed.digest}"
