"""A Python index with a password, over http and https with a CA of its own: it works, the password stays out."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest

from mpack.contents import sha256_file
from mpack.env.index import IndexSettings
from mpack.env.install import install
from mpack.env.lock import lock_environment
from mpack.env.wheels import download_wheels
from mpack.errors import EnvironmentFault
from mpack.plan import BaseImage, Environment
from mpack.spec import Requirement
from mpack.testing.processes import watched_processes
from mpack.testing.wheels import make_wheel, serve_index

pytestmark = pytest.mark.integration

USER = "builder"
PASSWORD = "s3cr@t/p:ss w0rd"
FORMS = (PASSWORD, quote(PASSWORD), quote(PASSWORD, safe=""), "czNjckB0")
BASE = BaseImage("base", "sha256:0", "linux/amd64", "/usr/bin/python3.11", "3.11.2")


@pytest.fixture
def links(tmp_path: Path) -> Path:
    directory = tmp_path / "served"
    make_wheel(directory, "lib", "1.0")
    make_wheel(directory, "app", "1.0", requires=("lib",))
    return directory


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and caches of the test's own, so that every file written can be looked at."""
    path = tmp_path / "home"
    for name in ("cache", "tmp"):
        (path / name).mkdir(parents=True)
    for key in [key for key in os.environ if key.startswith(("PIP_", "UV_")) or "proxy" in key.lower()]:
        monkeypatch.delenv(key)
    for key, value in {"HOME": "", "XDG_CACHE_HOME": "cache", "TMPDIR": "tmp", "UV_CACHE_DIR": "cache/uv"}.items():
        monkeypatch.setenv(key, str(path / value))
    monkeypatch.setattr("tempfile.tempdir", str(path / "tmp"))
    return path


def build(index: IndexSettings, root: Path) -> Environment:
    """Lock, install and download, as a build and an export do."""
    environment = lock_environment([Requirement("app", "model")], python="3.11", platform="linux/amd64", index=index)
    install(environment, BASE, root / "venv", "venv", index=index)
    download_wheels(environment, root / "wheels", index=index)
    return environment


def leaks(root: Path) -> list[str]:
    """Files under `root` whose name or bytes hold the password in any form."""
    found = []
    for path in root.rglob("*"):
        data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found += [str(path) for form in FORMS if form.encode() in data or form in path.name]
    return found


def test_password_in_the_environment(
    links: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An index URL with a password builds; the password is in no file, no log line and no command line."""
    with serve_index(links, user=USER, password=PASSWORD) as url, watched_processes() as seen:
        login = f"{USER}:{quote(PASSWORD, safe='')}@"
        monkeypatch.setenv("PIP_INDEX_URL", url.replace("://", "://" + login))
        index = IndexSettings.from_host(os.environ)
        with caplog.at_level(logging.DEBUG):
            environment = build(index, tmp_path)
    assert [package.name for package in environment.packages] == ["app", "lib"]
    assert (tmp_path / "venv/lib/python3.11/site-packages/lib/__init__.py").is_file()
    assert {path.name for path in (tmp_path / "wheels").iterdir()} == {path.name for path in links.iterdir()}
    assert leaks(tmp_path) == []
    assert any("pip compile" in line for line in seen) and any("pip install" in line for line in seen)
    for form in FORMS:
        assert form not in caplog.text
        assert [line for line in seen if form in line] == []
        assert form not in str(environment.to_json())


def test_password_in_netrc(links: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """netrc and pip.conf of the user, as pip reads them; here the password has no blank, which netrc cannot hold."""
    with serve_index(links, user=USER, password="netrcpass1") as url:
        (home / ".netrc").write_text(f"machine 127.0.0.1 login {USER} password netrcpass1\n")
        (home / ".netrc").chmod(0o600)
        config = home / ".config" / "pip" / "pip.conf"
        config.parent.mkdir(parents=True)
        config.write_text(f"[global]\nindex-url = {url}\n")
        environment = build(IndexSettings.from_host({"HOME": str(home)}), tmp_path)
    assert [package.name for package in environment.packages] == ["app", "lib"]
    holders = [path for path in tmp_path.rglob("*") if path.is_file() and b"netrcpass1" in path.read_bytes()]
    assert holders == [home / ".netrc"]


def test_a_wrong_password(links: Path, home: Path) -> None:
    """401 is the environment's fault, says that the credentials are refused, and does not repeat them."""
    with serve_index(links, user=USER, password=PASSWORD) as url:
        index = IndexSettings(default=url.replace("://", f"://{USER}:wr0ngpass@"))
        with pytest.raises(EnvironmentFault) as caught:
            lock_environment([Requirement("app", "model")], python="3.11", platform="linux/amd64", index=index)
    assert caught.value.code == "index-unreachable" and "credentials" in caught.value.message
    assert "wr0ngpass" not in str(caught.value)


def test_extra_index_after_one_without_the_project(links: Path, home: Path, tmp_path: Path) -> None:
    """A file:// index that has no page for a project is passed over."""
    empty = tmp_path / "empty" / "simple"
    empty.mkdir(parents=True)
    with serve_index(links, user=USER, password=PASSWORD) as url:
        login = f"{USER}:{quote(PASSWORD, safe='')}@"
        environ = {"HOME": str(home), "PIP_EXTRA_INDEX_URL": empty.as_uri()}
        index = IndexSettings.from_host({**environ, "PIP_INDEX_URL": url.replace("://", "://" + login)})
        assert [package.name for package in build(index, tmp_path).packages] == ["app", "lib"]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """(CA certificate, server certificate, server key), made by openssl for 127.0.0.1."""
    if shutil.which("openssl") is None:
        pytest.fail("openssl is needed to make the test's certificate authority")
    root = tmp_path_factory.mktemp("ca")
    (root / "ext").write_text("subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n")
    new = ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-keyout"]
    commands = [
        [*new, "ca.key", "-x509", "-days", "2", "-subj", "/CN=Test CA", "-out", "ca.pem"],
        [*new, "server.key", "-subj", "/CN=127.0.0.1", "-out", "server.csr"],
        ["openssl", "x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
         "-days", "2", "-extfile", "ext", "-out", "server.pem"],
    ]  # fmt: skip
    for command in commands:
        subprocess.run(command, cwd=root, check=True, capture_output=True)
    return root / "ca.pem", root / "server.pem", root / "server.key"


def test_own_certificate_authority(links: Path, home: Path, tmp_path: Path, authority: tuple[Path, Path, Path]) -> None:
    """With pip's `cert` naming the CA the build works; without it the fault names the certificate and the way out."""
    ca, certificate, key = authority
    with serve_index(links, user=USER, password=PASSWORD, tls=(certificate, key)) as url:
        login = f"{USER}:{quote(PASSWORD, safe='')}@"
        environ = {"HOME": str(home), "PIP_INDEX_URL": url.replace("://", "://" + login)}
        environment = build(IndexSettings.from_host({**environ, "PIP_CERT": str(ca)}), tmp_path)
        assert [package.name for package in environment.packages] == ["app", "lib"]
        with pytest.raises(EnvironmentFault) as caught:
            lock_environment(
                [Requirement("app", "model")],
                python="3.11",
                platform="linux/amd64",
                index=IndexSettings.from_host(environ),
            )
    assert caught.value.code == "index-unreachable"
    assert "certificate" in caught.value.message and "SSL_CERT_FILE" in caught.value.hint
    assert leaks(tmp_path) == []


def test_a_wheel_at_a_fixed_address(links: Path, home: Path, tmp_path: Path) -> None:
    """A direct URL is locked by address and hash, installed and downloaded; its dependencies come from the index."""
    with serve_index(links) as url:
        address = url.replace("/simple/", "/files/app-1.0-py3-none-any.whl")
        index = IndexSettings(default=url)
        environment = lock_environment(
            [Requirement(f"app @ {address}", "model")], python="3.11", platform="linux/amd64", index=index
        )
        install(environment, BASE, tmp_path / "venv", "venv", index=index)
        files = download_wheels(environment, tmp_path / "wheels", index=index)
    app, lib = environment.packages
    assert (app.source, app.url, len(app.hashes), lib.source) == ("url", address, 1, "index")
    assert sorted(files) == ["app", "lib"]
    assert not list((tmp_path / "venv").rglob("direct_url.json"))


def test_an_index_without_hashes(links: Path, home: Path) -> None:
    """Where the index's pages give no hashes, the files themselves are hashed."""
    with serve_index(links, hashes=False) as url:
        environment = lock_environment(
            [Requirement("lib", "model")],
            python="3.11",
            platform="linux/amd64",
            index=IndexSettings(default=url),
        )
    assert environment.packages[0].hashes == (f"sha256:{sha256_file(links / 'lib-1.0-py3-none-any.whl')}",)
