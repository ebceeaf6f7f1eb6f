"""Connection: a named endpoint, as manifests describe it."""

from __future__ import annotations

from mpack.connections.secret import Secret
from mpack.records import dataclass

TYPES = ("docker", "ecr", "s3", "gcs", "azureblob", "git")


@dataclass(frozen=True)
class Connection:
    """`uri` is without a scheme for docker and ecr: the host and what goes before an image's name."""

    id: str
    type: str
    uri: str
    region: str = ""
    username: str = ""
    role: str = ""
    reference: str = ""
    description: str = ""
    password: Secret | None = None
    key_id: Secret | None = None
    key_secret: Secret | None = None
    public_key: Secret | None = None
