"""Amazon ECR: a password that AWS gives for some hours, and repositories that must be made before a push."""

from __future__ import annotations

import base64
import os
import re
import threading
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from mpack.connections.login import invalid
from mpack.connections.model import Connection
from mpack.errors import EnvironmentFault
from mpack.records import dataclass
from mpack.redaction import hide
from mpack.registry.credentials import Credentials, DockerLogin
from mpack.registry.reference import Reference
from mpack.registry.transport import HOST_BUNDLES

_HOST = re.compile(
    r"(?P<account>[0-9]{12})\.dkr(?:\.ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)"
    r"\.(?:amazonaws\.com(?:\.cn)?|sc2s\.sgov\.gov|c2s\.ic\.gov)"
    r"|-ecr(?:-fips)?\.(?P<dual>[a-z0-9-]+)\.on\.(?:aws|amazonwebservices\.com\.cn))"
)
#: A password that ends within this time is asked for anew.
_MARGIN = timedelta(minutes=5)
#: Characters of AWS's own words that an error repeats.
_SHOWN = 300
#: What AWS's client looks at itself for a CA bundle.
_BUNDLES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")


@dataclass(frozen=True)
class EcrHost:
    """What a registry's host says: the account that owns it, and the region."""

    account: str
    region: str


def ecr_host(host: str) -> EcrHost | None:
    """ACCOUNT.dkr.ecr[-fips].REGION.amazonaws.com[.cn], or ACCOUNT.dkr-ecr[-fips].REGION.on.aws; None for no ECR."""
    found = _HOST.fullmatch(host)
    return EcrHost(found["account"], found["region"] or found["dual"]) if found else None


class EcrLogin:
    """Asks AWS for a password when the registry first wants one; each run asks anew. Threads may share it."""

    def __init__(self, connection: Connection, registry: str) -> None:
        """Nothing is asked yet. Raises InputError connection-invalid."""
        host = ecr_host(registry)
        if host is None:
            raise invalid(connection, "spec.uri", "is not ACCOUNT.dkr.ecr.REGION.amazonaws.com[/PREFIX]")
        if connection.region not in ("", host.region):
            raise invalid(connection, "spec.region", f"is {connection.region}; its registry is in {host.region}")
        if (connection.key_id is None) != (connection.key_secret is None):
            raise invalid(connection, "spec.keyID", "goes with spec.keySecret: give both, or none for AWS's own ways")
        self._connection = connection
        self._registry = registry
        self._host = host
        self._lock = threading.Lock()
        self._found: Credentials | None = None
        self._ends = datetime.now(timezone.utc)

    def credentials(self, reference: Reference) -> Credentials | None:
        if reference.registry != self._registry:
            return DockerLogin().credentials(reference)
        with self._lock:
            if self._found is None or self._ends - _MARGIN < datetime.now(timezone.utc):
                self._found, self._ends = self._ask()
            return self._found

    def remedy(self, reference: Reference) -> str:
        if reference.registry != self._registry:
            return DockerLogin().remedy(reference)
        return f"Check what the keys of the connection {self._connection.id} may do at ECR ({reference.repository})"

    def make_repository(self, reference: Reference) -> None:
        """Makes it unless it is there. Keys that may not make any are no error: the push tells whether it is there."""
        if reference.registry != self._registry:
            return
        asked = {"repositoryName": reference.repository, "registryId": self._host.account}
        done = ("RepositoryAlreadyExistsException", "AccessDeniedException")
        self._call("ecr", "create_repository", f"Making the repository {reference.repository}", asked, done)

    def _ask(self) -> tuple[Credentials, datetime]:
        what = f"Asking ECR for a password for {self._registry}"
        answer = self._call("ecr", "get_authorization_token", what, {})
        try:
            [data] = answer["authorizationData"]
            token = str(data["authorizationToken"])
            user, _, password = base64.b64decode(token, validate=True).decode().partition(":")
            ends = data["expiresAt"]
        except (KeyError, TypeError, ValueError):
            raise self._failed(f"{what} failed: the answer has no password.") from None
        hide(token)
        hide(password)
        return Credentials(user, password), ends

    def _call(
        self, service: str, operation: str, what: str, asked: Mapping[str, Any], passing: Collection[str] = ()
    ) -> Any:
        """The answer; {} for an error of AWS's with a code among `passing`. Raises EnvironmentFault registry-failed,
        without a secret in it, or tool-missing."""
        try:
            from botocore.exceptions import BotoCoreError, ClientError
        except ImportError as error:
            raise EnvironmentFault(
                "tool-missing",
                f"The connection {self._connection.id} is of the type ecr, and the Python package botocore is not "
                "installed.",
                "Install it: pip install 'mpack[ecr]'.",
            ) from error
        try:
            return getattr(self._client(service), operation)(**asked)
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in passing:
                return {}
            said = " ".join(str(error.response.get("Error", {}).get("Message", "")).split())
            raise self._failed(f"{what} failed: {code}: {said[:_SHOWN].rstrip('.')}.") from None
        except BotoCoreError as error:
            raise self._failed(f"{what} failed: {str(error).rstrip('.')}.") from None

    def _client(self, service: str) -> Any:
        """A client of AWS's in the registry's region, with the connection's keys, in its role. Endpoints and proxies
        are those of the environment (AWS_ENDPOINT_URL_ECR, AWS_ENDPOINT_URL, HTTPS_PROXY)."""
        keys = self._keys()
        role = self._connection.role
        if role and service != "sts":
            asked = {"RoleArn": role, "RoleSessionName": "mpack"}
            answer = self._call("sts", "assume_role", f"Taking the role {role}", asked)["Credentials"]
            keys = (answer["AccessKeyId"], answer["SecretAccessKey"], answer["SessionToken"])
            hide(answer["SecretAccessKey"])
            hide(answer["SessionToken"])
        from botocore.config import Config
        from botocore.session import Session

        return Session().create_client(
            service,
            region_name=self._host.region,
            aws_access_key_id=keys[0],
            aws_secret_access_key=keys[1],
            aws_session_token=keys[2],
            verify=_bundle(),
            config=Config(connect_timeout=15, read_timeout=30, retries={"total_max_attempts": 3, "mode": "standard"}),
        )

    def _keys(self) -> tuple[str | None, str | None, str | None]:
        """Key, its secret and no session token; None: AWS's client finds keys as it always does."""
        key, secret = self._connection.key_id, self._connection.key_secret
        return (key.reveal() if key else None), (secret.reveal() if secret else None), None

    def _failed(self, why: str) -> EnvironmentFault:
        own = self._connection
        hint = f"Check the keys of the connection {own.id}, its role and region ({self._host.region}), and the network."
        return EnvironmentFault("registry-failed", why, hint)


def _bundle() -> str | None:
    """The host's CA bundle; None where AWS's client has a word of its own for it, or the host has none."""
    if any(os.environ.get(name) for name in _BUNDLES):
        return None
    named = os.environ.get("SSL_CERT_FILE")
    return named or next((item for item in HOST_BUNDLES if Path(item).is_file()), None)
