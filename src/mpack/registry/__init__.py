"""Images from and to OCI registries: the only network code for images."""

from __future__ import annotations

from mpack.registry.client import Descriptor, RegistryClient, Resolved
from mpack.registry.reference import Reference, parse_reference

__all__ = ["Descriptor", "Reference", "RegistryClient", "Resolved", "parse_reference"]
