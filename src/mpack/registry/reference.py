"""Image references as Docker reads them: [HOST[:PORT]/]PATH[:TAG][@DIGEST]."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from mpack.errors import InputError

DOCKER_HUB = "docker.io"
#: Where Docker Hub answers, and the key under which Docker keeps its credentials.
DOCKER_HUB_API = "registry-1.docker.io"
DOCKER_HUB_KEY = "https://index.docker.io/v1/"

_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HOST = re.compile(
    r"(?:(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9a-fA-F:]+\])"
    r"(?::[0-9]{1,5})?"
)


@dataclass(frozen=True)
class Reference:
    """A parsed reference. `registry` is a host with an optional port; a digest wins over the tag."""

    registry: str
    repository: str
    tag: str | None
    digest: str | None = None

    @property
    def target(self) -> str:
        """What a manifest request asks for: the digest, else the tag."""
        return self.digest or self.tag or "latest"

    @property
    def api_host(self) -> str:
        """The host that answers the distribution API."""
        return DOCKER_HUB_API if self.registry == DOCKER_HUB else self.registry

    @property
    def credential_key(self) -> str:
        """The key of this registry in Docker's config.json."""
        return DOCKER_HUB_KEY if self.registry == DOCKER_HUB else self.registry

    @property
    def is_loopback(self) -> bool:
        """True for localhost, *.localhost and loopback addresses: plain HTTP is allowed there, as Docker does."""
        host = re.sub(r":\d+$", "", self.registry).strip("[]").lower()
        if host == "localhost" or host.endswith(".localhost"):
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    @property
    def name(self) -> str:
        """The canonical name without tag and digest: "docker.io/library/python"."""
        return f"{self.registry}/{self.repository}"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.name}{tag}@{self.digest}" if self.digest else f"{self.name}{tag}"


def parse_reference(text: str) -> Reference:
    """Parses a reference; docker.io, library/ and :latest are the defaults. Raises InputError image-name-invalid."""
    rest, at, digest = text.strip().partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise _illegal(text, f"{digest!r} is not sha256: and 64 lower-case hex digits")
    head, slash, last = rest.rpartition("/")
    last, colon, tag = last.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise _illegal(text, f"{tag!r} is not a tag")
    registry, path = _split_host(head + slash + last)
    if not _HOST.fullmatch(registry):
        raise _illegal(text, f"{registry!r} is not a host")
    for component in path.split("/"):
        if not _COMPONENT.fullmatch(component):
            raise _illegal(text, f"{component!r} may not stand in a repository's path")
    if len(path) > 255:
        raise _illegal(text, "the repository's path is longer than 255 characters")
    return Reference(registry, path, tag or (None if digest else "latest"), digest or None)


def names_registry(text: str) -> bool:
    """True for HOST/NAME where the first part can only be a host: it has a dot or a port, or is localhost."""
    host, slash, _ = text.partition("/")
    return bool(slash) and ("." in host or ":" in host or host == "localhost")


def _split_host(path: str) -> tuple[str, str]:
    host, slash, rest = path.partition("/")
    if not slash or not (any(mark in host for mark in ".:") or host == "localhost" or host != host.lower()):
        host, rest = DOCKER_HUB, path
    if host in (DOCKER_HUB, "index.docker.io", DOCKER_HUB_API):
        return DOCKER_HUB, rest if "/" in rest else f"library/{rest}"
    return host, rest


def _illegal(text: str, why: str) -> InputError:
    return InputError(
        "image-name-invalid",
        f"{text!r} is not an image reference: {why}.",
        "Write [HOST[:PORT]/]NAME[:TAG] or NAME@sha256:…, in lower case.",
    )
