"""Index settings: what pip and uv on a host say, translated for both; secrets stay out of texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpack.env.index import IndexSettings
from mpack.errors import EnvironmentFault


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment whose configuration is all under one empty directory."""
    return {"HOME": str(tmp_path), "XDG_CONFIG_DIRS": str(tmp_path / "etc"), "VIRTUAL_ENV": str(tmp_path / "venv")}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


@pytest.fixture(autouse=True)
def no_system_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's own /etc/pip.conf plays no part."""
    import mpack.env.hostconfig as hostconfig

    files = hostconfig._pip_files
    monkeypatch.setattr(hostconfig, "_pip_files", lambda env: [p for p in files(env) if p != Path("/etc/pip.conf")])


def test_nothing_configured(home: dict[str, str]) -> None:
    """Without settings neither tool is told of an index."""
    settings = IndexSettings.from_host(home)
    assert settings.default is None and settings.extra == () and settings.find_links == ()
    assert "UV_DEFAULT_INDEX" not in settings.uv_env() and "PIP_INDEX_URL" not in settings.pip_env()
    assert settings.strategy == "first-index" and settings.secrets == ()


def test_pip_conf_becomes_uv_settings(home: dict[str, str], tmp_path: Path) -> None:
    """uv ignores pip.conf: its index, extra indexes, links, CA and hosts are handed over; extras compare as in pip."""
    ca = write(tmp_path / "ca.pem", "x")
    text = f"""[global]
index-url = https://user:s3cr%%40t@index.example/simple
extra_index_url = file:///srv/wheels/simple
    https://more.example/simple
find-links = {tmp_path}/some links
[install]
trusted-host = more.example
cert = {ca}
timeout = 7
"""
    write(tmp_path / ".config" / "pip" / "pip.conf", text.replace("%%", "%"))
    env = IndexSettings.from_host(home).uv_env()
    assert env["UV_DEFAULT_INDEX"] == "https://user:s3cr%40t@index.example/simple"
    assert env["UV_INDEX"] == "file:///srv/wheels/simple https://more.example/simple"
    assert env["UV_INDEX_STRATEGY"] == "unsafe-best-match"
    assert env["SSL_CERT_FILE"] == str(ca) and env["UV_INSECURE_HOST"] == "more.example"
    assert env["UV_HTTP_TIMEOUT"] == "7"


def test_local_paths_are_known(home: dict[str, str], tmp_path: Path) -> None:
    """Directories and file:// URLs, with blanks and all, are what a docker build cannot see."""
    home |= {"PIP_EXTRA_INDEX_URL": "file:///srv/simple https://a.example/s", "PIP_FIND_LINKS": f"{tmp_path}/b%20c"}
    settings = IndexSettings.from_host({**home, "UV_FIND_LINKS": f"{tmp_path}/d e"})
    assert settings.local_paths == (Path("/srv/simple"), tmp_path / "d e", tmp_path / "b%20c")


def test_pip_sources_in_pips_order(home: dict[str, str], tmp_path: Path) -> None:
    """Environment over PIP_CONFIG_FILE over the virtual environment's file over the user's."""
    write(tmp_path / ".config" / "pip" / "pip.conf", "[global]\nindex-url = https://user.example/\n")
    assert IndexSettings.from_host(home).default == "https://user.example/"
    write(tmp_path / "venv" / "pip.conf", "[global]\nindex-url = https://venv.example/\n")
    assert IndexSettings.from_host(home).default == "https://venv.example/"
    home["PIP_CONFIG_FILE"] = str(write(tmp_path / "named.conf", "[global]\nindex-url = https://named.example/\n"))
    assert IndexSettings.from_host(home).default == "https://named.example/"
    assert IndexSettings.from_host({**home, "PIP_INDEX_URL": "https://env.example/"}).default == "https://env.example/"
    assert IndexSettings.from_host({**home, "PIP_CONFIG_FILE": "/dev/null"}).default is None


def test_uv_wins_over_pip(home: dict[str, str]) -> None:
    """Where uv has indexes of its own, pip's do not count, and uv's strategy holds."""
    home |= {"PIP_INDEX_URL": "https://pip.example/", "PIP_EXTRA_INDEX_URL": "https://pip2.example/"}
    home |= {"UV_INDEX": "corp=https://uv.example/simple", "UV_INDEX_CORP_USERNAME": "me"}
    home |= {"UV_INDEX_CORP_PASSWORD": "p w/1"}
    settings = IndexSettings.from_host(home)
    assert settings.default is None
    assert settings.extra == ("https://me:p%20w%2F1@uv.example/simple",)
    assert settings.strategy == "first-index"


def test_uv_toml(home: dict[str, str], tmp_path: Path) -> None:
    """Tables of uv.toml: default and further indexes; explicit ones are for named packages only and left out."""
    text = """index-strategy = "unsafe-first-match"
[[index]]
url = "https://a.example/simple"
[[index]]
url = "https://b.example/simple"
default = true
[[index]]
name = "torch"
url = "https://c.example/simple"
explicit = true
"""
    write(tmp_path / ".config" / "uv" / "uv.toml", text)
    settings = IndexSettings.from_host(home)
    assert (settings.default, settings.extra) == ("https://b.example/simple", ("https://a.example/simple",))
    assert settings.strategy == "unsafe-first-match"


def test_netrc_is_resolved_for_its_host_only(home: dict[str, str], tmp_path: Path) -> None:
    """A login of netrc goes to its own host; the `default` entry goes nowhere."""
    write(tmp_path / ".netrc", "machine a.example login me password geheim99\ndefault login x password y\n").chmod(
        0o600
    )
    home["PIP_INDEX_URL"] = "https://b.example/simple"
    home["PIP_EXTRA_INDEX_URL"] = "https://a.example/simple"
    settings = IndexSettings.from_host(home)
    assert settings.default == "https://b.example/simple"
    assert settings.extra == ("https://me:geheim99@a.example/simple",)


def test_secrets_do_not_show(home: dict[str, str]) -> None:
    """Passwords and tokens vanish from texts, as they are, URL-encoded, in user info and in a Basic header."""
    home |= {"PIP_INDEX_URL": "https://me:s3cr%40t%2Fpass@a.example/", "UV_FIND_LINKS": "https://ghp_token@b.example/"}
    home |= {"https_proxy": "http://px:pr0xypw@proxy.example:3128"}
    settings = IndexSettings.from_host(home)
    assert set(settings.secrets) == {"s3cr@t/pass", "ghp_token", "pr0xypw"}
    leaks = "s3cr@t/pass s3cr%40t%2Fpass ghp_token pr0xypw bWU6c3NjcjQ= https://x:y@h/ bWU6czNjckB0L3Bhc3M="
    clean = settings.redact(leaks)
    for secret in ("s3cr", "ghp_token", "pr0xypw", "x:y", "bWU6czNj"):
        assert secret not in clean
    for secret in settings.secrets:
        assert secret not in repr(settings)
    assert settings.uv_env()["HTTPS_PROXY"] == "http://px:pr0xypw@proxy.example:3128"


def test_bad_pip_conf_is_an_error_without_its_content(home: dict[str, str], tmp_path: Path) -> None:
    """A pip.conf that pip refuses stops the build, and the line at fault (it may hold a password) is not printed."""
    path = write(tmp_path / ".config" / "pip" / "pip.conf", "index-url = https://me:hush@a.example/\n")
    with pytest.raises(EnvironmentFault) as caught:
        IndexSettings.from_host(home)
    assert caught.value.code == "index-unreachable"
    assert str(path) in caught.value.message and "hush" not in str(caught.value)


def test_certificates_by_precedence(home: dict[str, str], tmp_path: Path) -> None:
    """pip's `cert` before SSL_CERT_FILE before REQUESTS_CA_BUNDLE; a file that is not there is passed over."""
    one, two = write(tmp_path / "one.pem", ""), write(tmp_path / "two.pem", "")
    assert IndexSettings.from_host({**home, "REQUESTS_CA_BUNDLE": str(one)}).ca_bundle == one
    assert IndexSettings.from_host({**home, "REQUESTS_CA_BUNDLE": str(one), "SSL_CERT_FILE": str(two)}).ca_bundle == two
    assert IndexSettings.from_host({**home, "PIP_CERT": str(one), "SSL_CERT_FILE": str(two)}).ca_bundle == one
    assert IndexSettings.from_host({**home, "PIP_CERT": "/nowhere.pem", "SSL_CERT_FILE": str(two)}).ca_bundle == two
