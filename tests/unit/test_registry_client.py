"""The registry client against a scripted transport: retries, resuming, redirects, damage. No socket is opened."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from mpack.errors import EnvironmentFault, InputError
from mpack.registry import Descriptor, RegistryClient, parse_reference
from mpack.registry.client import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, choose_platform
from mpack.registry.credentials import DockerLogin

BLOB = b"layer" * 1000
REFERENCE = parse_reference("registry.example/team/base:1")
Handler = Callable[[httpx.Request], httpx.Response]


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def descriptor(data: bytes, kind: str = "application/vnd.oci.image.layer.v1.tar+gzip") -> dict[str, Any]:
    return {"mediaType": kind, "digest": digest(data), "size": len(data)}


def manifest(kind: str = OCI_MANIFEST) -> bytes:
    config = descriptor(b"{}", "application/vnd.oci.image.config.v1+json")
    return json.dumps({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [descriptor(BLOB)]}).encode()


def client(handler: Handler, config_dir: Path, naps: list[float] | None = None) -> RegistryClient:
    http = httpx.Client(transport=httpx.MockTransport(handler), follow_redirects=True)
    slept = naps if naps is not None else []
    return RegistryClient(REFERENCE, login=DockerLogin(config_dir), http=http, sleep=slept.append)


def test_retries_with_growing_pauses(tmp_path: Path) -> None:
    """429 and 5xx are tried again, Retry-After is obeyed, the pauses grow."""
    answers = [
        httpx.Response(503),
        httpx.Response(429, headers={"Retry-After": "7"}),
        httpx.Response(502),
        httpx.Response(200, content=manifest()),
    ]
    naps: list[float] = []
    found = client(lambda request: answers.pop(0), tmp_path, naps).resolve("linux/amd64")
    assert found.layers == (Descriptor.from_json(descriptor(BLOB)),)
    assert naps[1] == 7 and naps[2] > naps[0] > 0


def test_gives_up_after_five_attempts(tmp_path: Path) -> None:
    """A registry that goes on failing is an error that names the last status."""
    asked: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return httpx.Response(500)

    with pytest.raises(EnvironmentFault, match="HTTP 500") as caught:
        client(handler, tmp_path).resolve("linux/amd64")
    assert len(asked) == 5 and caught.value.code == "registry-failed"


def test_resets_are_retried_and_counted(tmp_path: Path) -> None:
    """A connection that is reset each time ends with how often it was tried."""

    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("Connection reset by peer", request=request)

    with pytest.raises(EnvironmentFault, match="tried 5 times, last: Connection reset by peer"):
        client(handler, tmp_path).resolve("linux/amd64")


def test_untrusted_certificates_are_not_retried(tmp_path: Path) -> None:
    """An unknown CA fails at once, with the way to name it."""
    naps: list[float] = []

    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed", request=request)

    with pytest.raises(EnvironmentFault) as caught:
        client(handler, tmp_path, naps).resolve("linux/amd64")
    assert naps == [] and "SSL_CERT_FILE" in caught.value.hint


@pytest.mark.parametrize("ranges", [True, False])
def test_blob_is_resumed(tmp_path: Path, ranges: bool) -> None:
    """A blob whose connection breaks goes on where it broke, also at a registry that begins again from the start."""
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("range", ""))
        if len(seen) == 1:
            return httpx.Response(200, content=Broken(BLOB[:1234], request))
        start = int(seen[-1].removeprefix("bytes=").rstrip("-")) if ranges else 0
        return httpx.Response(206 if ranges else 200, content=BLOB[start:])

    assert b"".join(client(handler, tmp_path).blob(Descriptor.from_json(descriptor(BLOB)))) == BLOB
    assert seen == ["", "bytes=1234-"]


class Broken(httpx.SyncByteStream):
    """A body that breaks off."""

    def __init__(self, data: bytes, request: httpx.Request) -> None:
        self._data, self._request = data, request

    def __iter__(self) -> Any:
        yield self._data
        raise httpx.ReadError("peer closed", request=self._request)


@pytest.mark.parametrize("sent", [BLOB[:-1] + b"!", BLOB + b"more"])
def test_damaged_blob_is_refused(tmp_path: Path, sent: bytes) -> None:
    """Other bytes, or more of them, than the digest names are an error."""
    with pytest.raises(EnvironmentFault) as caught:
        list(
            client(lambda request: httpx.Response(200, content=sent), tmp_path).blob(
                Descriptor.from_json(descriptor(BLOB))
            )
        )
    assert caught.value.code == "registry-failed"


def test_manifest_by_digest_is_checked(tmp_path: Path) -> None:
    """A registry that sends another manifest than the pinned one is refused."""
    pinned = parse_reference(f"registry.example/x@sha256:{'0' * 64}")
    http = httpx.Client(transport=httpx.MockTransport(lambda request: httpx.Response(200, content=manifest())))
    with pytest.raises(EnvironmentFault, match="when asked for"):
        RegistryClient(pinned, login=DockerLogin(tmp_path), http=http).resolve("linux/amd64")


def login(directory: Path) -> str:
    value = base64.b64encode(b"me:pw").decode()
    (directory / "config.json").write_text(json.dumps({"auths": {"registry.example": {"auth": value}}}))
    return f"Basic {value}"


def test_bearer_token_and_redirect(tmp_path: Path) -> None:
    """Basic credentials go to the token service only, the token to the registry only, and nothing to the CDN."""
    basic, seen = login(tmp_path), []

    def handler(request: httpx.Request) -> httpx.Response:
        header = request.headers.get("authorization", "")
        seen.append((request.url.host, header))
        if request.url.host == "auth.example":
            assert request.url.params["scope"] == "repository:team/base:pull"
            return httpx.Response(200, json={"token": "T0KEN"})
        if request.url.host == "cdn.example":
            return httpx.Response(200, content=BLOB)
        if header != "Bearer T0KEN":
            challenge = 'Bearer realm="https://auth.example/token",service="r",scope="repository:team/base:pull"'
            return httpx.Response(401, headers={"WWW-Authenticate": challenge})
        return httpx.Response(307, headers={"Location": "https://cdn.example/blob?signature=x"})

    assert b"".join(client(handler, tmp_path).blob(Descriptor.from_json(descriptor(BLOB)))) == BLOB
    assert seen == [
        ("registry.example", ""),
        ("auth.example", basic),
        ("registry.example", "Bearer T0KEN"),
        ("cdn.example", ""),
    ]


def test_challenge_of_a_redirect_target_is_ignored(tmp_path: Path) -> None:
    """A host that the registry redirects to does not get the registry's credentials by asking for them."""
    basic, seen = login(tmp_path), []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("authorization", ""))
        if request.url.host == "evil.example":
            return httpx.Response(401, headers={"WWW-Authenticate": 'Bearer realm="https://evil.example/token"'})
        return httpx.Response(307, headers={"Location": "https://evil.example/blob"})

    with pytest.raises(EnvironmentFault, match="refuses access"):
        list(client(handler, tmp_path).blob(Descriptor.from_json(descriptor(BLOB))))
    assert basic not in seen


def test_identity_token_follows_no_redirect(tmp_path: Path) -> None:
    """It is in the body of a POST, which a redirect would repeat anywhere, in the clear too."""
    asked: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        if request.url.host == "auth.example":
            return httpx.Response(307, headers={"Location": "http://evil.example/"})
        return httpx.Response(401, headers={"WWW-Authenticate": 'Bearer realm="https://auth.example/token"'})

    entry = {"auths": {"registry.example": {"identitytoken": "identity"}}}
    (tmp_path / "config.json").write_text(json.dumps(entry))
    with pytest.raises(EnvironmentFault, match="HTTP 307"):
        client(handler, tmp_path).resolve("linux/amd64")
    assert len(asked) == 2 and not any("evil" in url for url in asked)


def test_token_service_without_tls_is_refused(tmp_path: Path) -> None:
    """Credentials are never sent to a plain-HTTP token service of a remote registry."""
    login(tmp_path)
    challenge = {"WWW-Authenticate": 'Bearer realm="http://auth.example/token"'}
    with pytest.raises(EnvironmentFault, match="without TLS"):
        client(lambda request: httpx.Response(401, headers=challenge), tmp_path).resolve("linux/amd64")


def test_wrong_password(tmp_path: Path) -> None:
    """Refused credentials end with `docker login`, after one try."""
    login(tmp_path)
    asked: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("authorization", ""))
        return httpx.Response(401, headers={"WWW-Authenticate": 'Basic realm="r"'})

    with pytest.raises(EnvironmentFault, match="refuses access") as caught:
        client(handler, tmp_path).resolve("linux/amd64")
    assert len(asked) == 2 and "docker login" in caught.value.hint and "pw" not in str(caught.value)


def test_missing_image(tmp_path: Path) -> None:
    """404 is an unknown image, not a broken registry."""
    with pytest.raises(EnvironmentFault) as caught:
        client(lambda request: httpx.Response(404, json={"errors": []}), tmp_path).resolve("linux/amd64")
    assert caught.value.code == "image-unknown"


def entry(system: str, architecture: str, variant: str | None = None) -> dict[str, Any]:
    platform = {"os": system, "architecture": architecture, **({"variant": variant} if variant else {})}
    return {"mediaType": OCI_MANIFEST, "digest": f"{system}/{architecture}/{variant}", "size": 1, "platform": platform}


INDEX = {
    "mediaType": OCI_INDEX,
    "manifests": [
        entry("unknown", "unknown"),
        entry("linux", "arm", "v7"),
        entry("linux", "arm64", "v8"),
        entry("linux", "amd64"),
        entry("windows", "amd64"),
    ],
}


@pytest.mark.parametrize(
    ("platform", "chosen"),
    [
        ("linux/amd64", "linux/amd64/None"),
        ("linux/arm64", "linux/arm64/v8"),
        ("linux/arm64/v8", "linux/arm64/v8"),
        ("linux/arm/v7", "linux/arm/v7"),
    ],
)
def test_platform_choice(platform: str, chosen: str) -> None:
    """The entry of an index for a platform, with and without variant."""
    assert choose_platform(INDEX, platform, REFERENCE) == chosen


@pytest.mark.parametrize("platform", ["linux/s390x", "linux/arm/v6"])
def test_missing_platform_names_the_others(platform: str) -> None:
    """A platform that an image is not there for is an input error with those that it is there for."""
    with pytest.raises(InputError, match="it has linux/amd64, linux/arm/v7, linux/arm64/v8, windows/amd64"):
        choose_platform(INDEX, platform, REFERENCE)


@pytest.mark.parametrize("kinds", [(OCI_INDEX, OCI_MANIFEST), (DOCKER_LIST, DOCKER_MANIFEST)])
def test_index_is_followed(tmp_path: Path, kinds: tuple[str, str]) -> None:
    """From an index or a manifest list to one platform's manifest, whose digest is the result's."""
    inner = manifest(kinds[1])
    index = {"mediaType": kinds[0], "manifests": [{**entry("linux", "amd64"), "digest": digest(inner)}]}

    def handler(request: httpx.Request) -> httpx.Response:
        assert kinds[0] in request.headers["accept"]
        return httpx.Response(200, content=inner if digest(inner) in request.url.path else json.dumps(index).encode())

    assert client(handler, tmp_path).resolve("linux/amd64").digest == digest(inner)


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b'{"schemaVersion": 1}', b'{"mediaType": "' + OCI_MANIFEST.encode() + b'"}']
)
def test_no_manifest(tmp_path: Path, body: bytes) -> None:
    """Whatever else a registry (or a proxy in between) answers is refused with words."""
    with pytest.raises(EnvironmentFault, match=r"registry\.example") as caught:
        client(lambda request: httpx.Response(200, content=body), tmp_path).resolve("linux/amd64")
    assert caught.value.code == "registry-failed"
