"""Where conda's channels are on this host, and what of that nobody is told."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

import pytest

from mpack.conda.channels import Channels
from mpack.errors import EnvironmentFault, InputError

PASSWORD, TOKEN = "hunter2-password", "tk-0123456789"
CONDARC = f"""
channels: [mine, conda-forge]
channel_alias: https://me:{PASSWORD}@mirror.example.org/conda/
custom_channels:
  mine: https://conda.example.org/t/{TOKEN}
  here: /srv/channels
mirrored_channels:
  far: [https://near.example.org/far, https://x.example.org/far]
default_channels: [https://repo.example.org/main, pkgs/r]
ssl_verify: /etc/ssl/mine.pem
channel_priority: disabled
proxy_servers:
  https: http://user:${{PROXY_PASSWORD}}@proxy:3128
"""


def host(tmp_path: Path, text: str = CONDARC, **environ: str) -> Channels:
    (tmp_path / ".condarc").write_text(text)
    return Channels.from_host({"HOME": str(tmp_path), "PROXY_PASSWORD": PASSWORD, **environ})


@pytest.mark.parametrize(
    ("channel", "address"),
    [
        ("conda-forge", f"https://me:{PASSWORD}@mirror.example.org/conda/conda-forge"),
        ("mine", f"https://conda.example.org/t/{TOKEN}/mine"),
        ("mine/label/dev", f"https://conda.example.org/t/{TOKEN}/mine/label/dev"),
        ("here", "file:///srv/channels/here"),
        ("far", "https://near.example.org/far"),
        ("pkgs/r", "https://repo.anaconda.com/pkgs/r"),
        ("https://a.example.org/b", "https://a.example.org/b"),
    ],
)
def test_addresses(tmp_path: Path, channel: str, address: str) -> None:
    """Names are found as conda finds them: mirrors, then custom channels, then the alias."""
    assert host(tmp_path).url(channel) == address


def test_settings(tmp_path: Path) -> None:
    """Order, defaults, TLS, proxy; the environment's own file and variables come last."""
    channels = host(tmp_path)
    assert channels.wanted(()) == ("mine", "conda-forge")
    assert channels.wanted(("x", "defaults")) == ("x", "https://repo.example.org/main", "pkgs/r")
    assert channels.priority == "disabled" and channels.ca_bundle == "/etc/ssl/mine.pem"
    assert channels.environment() == {
        "HTTPS_PROXY": f"http://user:{PASSWORD}@proxy:3128",
        "SSL_CERT_FILE": "/etc/ssl/mine.pem",
    }
    other = tmp_path / "other"
    other.write_text("channels: [third]\nssl_verify: false\n")
    later = host(tmp_path, CONDARC=str(other), CONDA_CHANNEL_ALIAS="https://alias.example.org")
    assert later.wanted(()) == ("third",) and later.url("a") == "https://alias.example.org/a"
    assert not later.verify and later.ca_bundle is None
    assert host(tmp_path, "").url("bioconda") == "https://conda.anaconda.org/bioconda"


def test_secrets(tmp_path: Path) -> None:
    """No repr, public name or redacted message has a password or a token."""
    channels = host(tmp_path)
    addresses = " ".join(map(channels.url, ("mine", "conda-forge")))
    shown = [repr(channels), channels.public(channels.url("mine")), channels.redact(f"{addresses} {PASSWORD}/{TOKEN}")]
    assert not any(secret in text for text in shown for secret in (PASSWORD, TOKEN))
    assert channels.public("conda-forge") == "conda-forge"
    assert channels.public(channels.url("conda-forge")) == "https://mirror.example.org/conda/conda-forge"


def test_access(tmp_path: Path) -> None:
    """py-rattler, which keeps addresses, gets them bare, the token as a mirror and the password as a header."""
    access = host(tmp_path).access(["mine", "conda-forge", "here"])
    assert access == {
        "channels": {
            "mine": "https://conda.example.org/mine",
            "conda-forge": "https://mirror.example.org/conda/conda-forge",
            "here": "file:///srv/channels/here",
        },
        "mirrors": {"https://conda.example.org/mine": [f"https://conda.example.org/t/{TOKEN}/mine"]},
        "logins": [
            [
                "mirror.example.org",
                "/conda/conda-forge",
                f"Basic {b64encode(f'me:{PASSWORD}'.encode()).decode()}",
            ]
        ],
        "verify": True,
    }


def test_directory_needs_a_name(tmp_path: Path) -> None:
    """A lock is for all machines: a channel that is only a directory of this one is refused."""
    with pytest.raises(InputError, match="directory of one machine"):
        host(tmp_path).public("/srv/channels/here")


def test_broken_file(tmp_path: Path) -> None:
    """A condarc that is no YAML is named."""
    with pytest.raises(EnvironmentFault, match=r"\.condarc cannot be read") as caught:
        host(tmp_path, "a: [")
    assert caught.value.code == "index-unreachable"
