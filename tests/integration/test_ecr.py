"""Pushing to ECR: moto's server gives the password and has the repositories, Debian's docker-registry the images.

ECR's host names resolve to nothing here, so that the host's proxy leads them to the registry.
"""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest

from mpack.connections import Connection, parse_secret
from mpack.connections.ecr import EcrLogin, ecr_host
from mpack.connections.login import login_of
from mpack.errors import EnvironmentFault, InputError
from mpack.oci.compose import append_layers
from mpack.oci.image import OciImage
from mpack.oci.layer import bytes_entries
from mpack.oci.store import Store
from mpack.redaction import redact
from mpack.registry import parse_reference
from mpack.registry.credentials import Credentials
from mpack.registry.pull import pull
from mpack.targets.registry import RegistryTarget
from mpack.testing.moto import moto_server
from mpack.testing.proxy import LeadingProxy, leading_proxy
from mpack.testing.registryserver import RegistryServer, registry_server
from mpack.testing.tiny import tiny_base

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("docker_config")]

ROOT = Path(__file__).parents[2]
#: moto has this account for keys that it does not know.
ACCOUNT, OTHER = "123456789012", "222222222222"
HOST, OTHER_HOST = (f"{account}.dkr.ecr.eu-west-1.amazonaws.com" for account in (ACCOUNT, OTHER))
KEY_ID, KEY_SECRET = "AKIAPLANTEDKEY", "planted/secret+of/aws"


@dataclass(frozen=True)
class Aws:
    """The services' URL, the registry and the way to it."""

    url: str
    registry: RegistryServer
    proxy: LeadingProxy

    def ask(self, target: str, body: dict[str, Any]) -> dict[str, Any]:
        """An operation of ECR's, asked without mpack."""
        credential = f"AWS4-HMAC-SHA256 Credential={KEY_ID}/20261121/eu-west-1/ecr/aws4_request"
        kind = {"X-Amz-Target": f"AmazonEC2ContainerRegistry_V20150921.{target}"}
        headers = {"Authorization": credential, "Content-Type": "application/x-amz-json-1.1", **kind}
        answer = httpx.post(self.url, json=body, headers=headers, trust_env=False)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def repositories(self) -> set[str]:
        return {item["repositoryName"] for item in self.ask("DescribeRepositories", {})["repositories"]}


@pytest.fixture(scope="module")
def services(moto: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    """A registry that takes the password that moto gives, TLS under ECR's name."""
    with moto_server(moto) as url:
        token = Aws(url, None, None).ask("GetAuthorizationToken", {})["authorizationData"][0]["authorizationToken"]  # type: ignore[arg-type]
        user, _, password = base64.b64decode(token).decode().partition(":")
        directory = tmp_path_factory.mktemp("registry")
        with registry_server(
            directory, secured=True, auth=(user, password), name=HOST.replace(ACCOUNT, "*")
        ) as registry:
            ports = {f"{HOST}:443": registry.port, f"{OTHER_HOST}:443": registry.port}
            with leading_proxy(ports) as proxy:
                yield Aws(url, registry, proxy)


@pytest.fixture
def aws(services: Aws, moto: Path, monkeypatch: pytest.MonkeyPatch) -> Aws:
    """The services as the host's settings name them; botocore is at hand, after all that is installed here."""
    monkeypatch.setattr(sys, "path", [*sys.path, *map(str, moto.parents[1].glob("lib/*/site-packages"))])
    for name in [name for name in os.environ if name.upper().endswith("_PROXY") or name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ENDPOINT_URL": services.url,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "SSL_CERT_FILE": str(services.registry.ca),
        "HTTPS_PROXY": services.proxy.url,
        "NO_PROXY": "127.0.0.1,localhost",
    }.items():
        monkeypatch.setenv(name, value)
    return services


def connection(uri: str = f"{HOST}/team", **fields: Any) -> Connection:
    """An ecr connection as a manifest has it."""
    key = parse_secret(base64.b64encode(KEY_ID.encode()).decode(), "spec.keyID of ecr-ci")
    secret = parse_secret(base64.b64encode(KEY_SECRET.encode()).decode(), "spec.keySecret of ecr-ci")
    return Connection("ecr-ci", "ecr", uri, **{"key_id": key, "key_secret": secret, **fields})


def make(store: Store, text: str) -> OciImage:
    """A small image."""
    image = append_layers(
        store, tiny_base(store), [store.write_layer(bytes_entries({"/m": text.encode()}), kind="model")], runtime={}
    )
    store.add_image(image)
    return image


def test_push(aws: Aws, tmp_path: Path) -> None:
    """The repository is made once, the password is AWS's, the image is there; a second image needs neither."""
    store = Store(tmp_path / "store")
    for number, text in enumerate(("first", "second"), 1):
        image = make(store, text)
        target = RegistryTarget.through(connection(), f"wine:{number}")
        target.check_login()
        with store.lease():
            pushed = target.push(image, store)
        assert target.named(pushed) == f"{HOST}/team/wine@{image.digest}"
        assert "team/wine" in aws.repositories()
        found = pull(target.reference, "linux/amd64", Store(tmp_path / f"{number}"), login=login_of(connection()))
        assert found.digest == image.digest
    assert pushed.there >= 1 and set(aws.proxy.asked) == {f"{HOST}:443"}
    assert redact(f"{aws.registry.auth[1]} {KEY_SECRET} {KEY_ID}") == "***** ***** *****"  # type: ignore[index]


def test_role(aws: Aws) -> None:
    """With a role the password is that of the role's account: each has its own at moto, and the registry takes one."""
    login = login_of(connection(f"{OTHER_HOST}/team", role=f"arn:aws:iam::{OTHER}:role/pusher"))
    credentials = login.credentials(parse_reference(f"{OTHER_HOST}/team/wine:1"))
    assert credentials is not None and credentials.user == "AWS" and OTHER in credentials.password
    target = RegistryTarget.through(connection(f"{OTHER_HOST}/team", role=f"arn:aws:iam::{OTHER}:role/pusher"), "wine")
    with pytest.raises(EnvironmentFault, match="refuses a push as user 'AWS'") as caught:
        target.check_login()
    assert "the keys of the connection ecr-ci" in caught.value.hint


def test_refused_keys(moto: Path, aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that AWS does not know: its code and words, what to check, no secret; nothing that listens: the same."""
    with moto_server(moto, {"INITIAL_NO_AUTH_ACTION_COUNT": "0"}) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_ECR", url)
        with pytest.raises(EnvironmentFault, match="security token included in the request is invalid") as caught:
            RegistryTarget.through(connection(), "wine").check_login()
        assert "keys of the connection ecr-ci" in caught.value.hint and KEY_SECRET not in str(caught.value)
    with pytest.raises(EnvironmentFault, match="Could not connect to the endpoint") as caught:
        RegistryTarget.through(connection(), "wine").check_login()
    assert caught.value.code == "registry-failed" and KEY_ID not in str(caught.value)


def test_without_botocore(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra: what to install, when ECR is asked and not before."""
    monkeypatch.setitem(sys.modules, "botocore.exceptions", None)
    login = login_of(connection())
    with pytest.raises(EnvironmentFault, match="botocore is not installed") as caught:
        login.credentials(parse_reference(f"{HOST}/team/wine:1"))
    assert (caught.value.code, caught.value.hint) == ("tool-missing", "Install it: pip install 'mpack[ecr]'.")


class Counting(EcrLogin):
    """Counts how often a password was asked for; each lasts as long as `lasts` says."""

    asked = 0
    lasts = timedelta(hours=12)

    def _ask(self) -> tuple[Credentials, datetime]:
        self.asked += 1
        return Credentials("AWS", f"password {self.asked}"), datetime.now(timezone.utc) + self.lasts


def test_a_password_that_ends() -> None:
    """It is asked for once a run, and anew before it ends; another registry never gets it."""
    login, reference = Counting(connection(), HOST), parse_reference(f"{HOST}/team/wine:1")
    assert [login.credentials(reference) for _ in range(3)] == [Credentials("AWS", "password 1")] * 3
    assert login.credentials(parse_reference("registry.example/team/wine:1")) is None and login.asked == 1
    login = Counting(connection(), HOST)
    login.lasts = timedelta(minutes=4)
    assert [login.credentials(reference) for _ in range(2)] == [Credentials("AWS", f"password {n}") for n in (1, 2)]


@pytest.mark.parametrize(
    ("host", "region"),
    [
        (HOST, "eu-west-1"),
        (f"{ACCOUNT}.dkr.ecr-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        (f"{ACCOUNT}.dkr.ecr.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        (f"{ACCOUNT}.dkr-ecr.us-east-1.on.aws", "us-east-1"),
        ("public.ecr.aws", None),
        (f"{ACCOUNT}.dkr.ecr.eu-west-1.amazonaws.com.evil.example", None),
        (f"{ACCOUNT}.dkr.ecr.eu-west-1.amazonaws.com:444", None),
        ("localhost:5000", None),
    ],
)
def test_hosts(host: str, region: str | None) -> None:
    """The region stands in the host; what is no ECR's host is refused before anything is asked."""
    found = ecr_host(host)
    assert (found and found.region) == region
    if region is None:
        with pytest.raises(InputError, match=r"is not ACCOUNT\.dkr\.ecr"):
            login_of(connection(f"{host}/team"))
    else:
        login_of(connection(f"https://{host}/team", region=region))
        with pytest.raises(InputError, match="its registry is in"):
            login_of(connection(f"{host}/team", region="mars-1"))
