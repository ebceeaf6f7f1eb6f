"""Image references, as Docker reads them."""

from __future__ import annotations

import pytest

from mpack.errors import InputError
from mpack.registry import parse_reference

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag", "digest"),
    [
        ("python", "docker.io", "library/python", "latest", None),
        ("python:3.11-slim", "docker.io", "library/python", "3.11-slim", None),
        ("me/model", "docker.io", "me/model", "latest", None),
        ("docker.io/python", "docker.io", "library/python", "latest", None),
        ("index.docker.io/me/x:1", "docker.io", "me/x", "1", None),
        ("localhost/x", "localhost", "x", "latest", None),
        ("localhost:5000/a/b:c", "localhost:5000", "a/b", "c", None),
        ("host.example/a__b/c-d.e", "host.example", "a__b/c-d.e", "latest", None),
        ("host:443/x", "host:443", "x", "latest", None),
        ("[::1]:5000/x:1", "[::1]:5000", "x", "1", None),
        (f"python@{DIGEST}", "docker.io", "library/python", None, DIGEST),
        (f"host.example/x:1@{DIGEST}", "host.example", "x", "1", DIGEST),
        ("x:5000", "docker.io", "library/x", "5000", None),
    ],
)
def test_parts(text: str, registry: str, repository: str, tag: str | None, digest: str | None) -> None:
    """Host, path, tag and digest are told apart; Docker Hub, library/ and latest are filled in."""
    found = parse_reference(text)
    assert (found.registry, found.repository, found.tag, found.digest) == (registry, repository, tag, digest)
    assert parse_reference(str(found)) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "UPPER",
        "a//b",
        "x:",
        "x:ä",
        "x@sha256:123",
        f"x@sha512:{'a' * 128}",
        "-x",
        "a/../b",
        "http://h/x",
        "x:" + "a" * 129,
    ],
)
def test_illegal(text: str) -> None:
    """What no registry would take is an input error that says why."""
    with pytest.raises(InputError, match="is not an image reference") as caught:
        parse_reference(text)
    assert caught.value.code == "image-name-invalid"


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("localhost:5000/x", True),
        ("127.0.0.1/x", True),
        ("127.1.2.3:80/x", True),
        ("[::1]:5000/x", True),
        ("a.localhost/x", True),
        ("localhost.example/x", False),
        ("10.0.0.1/x", False),
        ("python", False),
    ],
)
def test_loopback(text: str, loopback: bool) -> None:
    """Only this machine's own addresses may be spoken to without TLS."""
    assert parse_reference(text).is_loopback is loopback


def test_docker_hub_is_three_names() -> None:
    """Docker Hub is called docker.io, answers elsewhere, and has its credentials under a URL."""
    hub = parse_reference("python")
    assert hub.api_host == "registry-1.docker.io"
    assert hub.credential_key == "https://index.docker.io/v1/"
