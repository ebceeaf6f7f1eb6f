"""Index settings: where wheels come from on this host, for uv and pip alike, and what of it is secret.

uv ignores pip.conf, and pip ignores uv.toml; a user who configured either expects it to hold. Rules:

- If anything names an index for uv (UV_* or uv.toml), uv's indexes and its index strategy count and pip's do not.
- Else pip's count. pip compares all its indexes and takes the best version, so a pip configuration with extra
  indexes becomes uv's `unsafe-best-match`: the same choice, with the same risk, that the user's pip makes.
- `find-links` of both are joined. Certificates, proxies and trusted hosts are taken from whichever names them.
- Credentials of netrc and of a keyring (where one is asked for) are put into the URLs, in memory and in the
  environment of child processes only: a docker build stage has neither netrc nor keyring.
"""

from __future__ import annotations

import base64
import os
import re
import ssl
import sys
from collections.abc import Iterable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from mpack.env.hostconfig import pip_options, uv_options
from mpack.records import dataclass

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_TRUE = ("1", "true", "yes", "on", "y", "t")
#: Shorter ones would black out half of every text; the URL rule of `redact` still covers them.
_SHORTEST_SECRET = 4


@dataclass(frozen=True)
class IndexSettings:
    """Index settings of this host. URLs carry their credentials, so none of them is in the repr.

    `default` is None for the tools' own default index. `find_links` are URLs (file:// for directories).
    `ca_bundle` is a PEM file; None: the platform's trust store. `proxies` are environment variables.
    """

    default: str | None = field(default=None, repr=False)
    extra: tuple[str, ...] = field(default=(), repr=False)
    find_links: tuple[str, ...] = field(default=(), repr=False)
    no_index: bool = False
    strategy: str = "first-index"
    ca_bundle: Path | None = None
    client_cert: Path | None = None
    trusted_hosts: tuple[str, ...] = ()
    keyring: bool = False
    proxies: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    timeout: str | None = None

    @classmethod
    def from_host(cls, environ: Mapping[str, str] = os.environ) -> IndexSettings:
        """What pip and uv on this host would use. Raises EnvironmentFault index-unreachable for a bad file."""
        pip, uv = pip_options(environ), uv_options(environ)
        default, extra, strategy = _indexes(pip, uv, environ)
        keyring = (environ.get("UV_KEYRING_PROVIDER") or uv.get("keyring-provider")) == "subprocess" or pip.get(
            "keyring-provider"
        ) in ("subprocess", "import", "auto")
        login = _Login(environ, keyring)
        links = [*_words(environ.get("UV_FIND_LINKS"), ","), *_words(uv.get("find-links"))]
        links += _words(pip.get("find-links"))
        hosts = [*_words(environ.get("UV_INSECURE_HOST")), *_words(uv.get("allow-insecure-host"))]
        hosts += _words(pip.get("trusted-host"))
        cert = pip.get("client-cert") or environ.get("SSL_CLIENT_CERT")
        return cls(
            default=login.url(_url(default)) if default else None,
            extra=_unique(login.url(_url(item)) for item in extra),
            find_links=_unique(login.url(_url(item)) for item in links),
            no_index=pip.get("no-index", "").lower() in _TRUE or uv.get("no-index") is True,
            strategy=strategy,
            ca_bundle=_ca_bundle(pip, environ),
            client_cert=Path(cert).expanduser().absolute() if cert else None,
            trusted_hosts=_unique(hosts),
            keyring=keyring,
            proxies=_proxies(pip, environ),
            timeout=environ.get("UV_HTTP_TIMEOUT") or pip.get("timeout") or pip.get("default-timeout"),
        )

    def uv_env(self) -> dict[str, str]:
        """The environment variables that make uv, on this machine or in a build stage, use these settings.

        `no_index` has no variable: see `uv_options`.
        """
        env = {"UV_NO_CONFIG": "1", "UV_INDEX_STRATEGY": self.strategy, **dict(self.proxies)}
        if self.default:
            env["UV_DEFAULT_INDEX"] = self.default
        if self.extra:
            env["UV_INDEX"] = " ".join(self.extra)
        if self.find_links:
            env["UV_FIND_LINKS"] = ",".join(item.replace(",", "%2C") for item in self.find_links)
        if self.ca_bundle:
            env["SSL_CERT_FILE"] = str(self.ca_bundle)
        else:
            env |= {"UV_SYSTEM_CERTS": "1", "UV_NATIVE_TLS": "1"}
        if self.client_cert:
            env["SSL_CLIENT_CERT"] = str(self.client_cert)
        if self.trusted_hosts:
            env["UV_INSECURE_HOST"] = " ".join(self.trusted_hosts)
        if self.keyring:
            env["UV_KEYRING_PROVIDER"] = "subprocess"
        if self.timeout:
            env["UV_HTTP_TIMEOUT"] = self.timeout
        return env

    def uv_options(self) -> tuple[str, ...]:
        """Command-line options that uv has no variable for. Never a secret."""
        return ("--no-index",) if self.no_index else ()

    def pip_env(self) -> dict[str, str]:
        """The environment variables that make pip use these settings and no configuration file."""
        env = {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_INPUT": "1",
            **dict(self.proxies),
        }
        values = {
            "PIP_INDEX_URL": self.default,
            "PIP_EXTRA_INDEX_URL": " ".join(self.extra),
            "PIP_FIND_LINKS": " ".join(self.find_links),
            "PIP_NO_INDEX": "1" if self.no_index else "",
            "PIP_CERT": str(self.ca_bundle or ""),
            "REQUESTS_CA_BUNDLE": str(self.ca_bundle or ""),  # pip puts this one over its own option
            "PIP_CLIENT_CERT": str(self.client_cert or ""),
            "PIP_TRUSTED_HOST": " ".join(self.trusted_hosts),
            "PIP_DEFAULT_TIMEOUT": self.timeout,
            "PIP_KEYRING_PROVIDER": "subprocess" if self.keyring else "",
        }
        return env | {key: value for key, value in values.items() if value}

    @property
    def local_paths(self) -> tuple[Path, ...]:
        """Directories of file:// indexes and find-links: what a docker build stage cannot see."""
        urls = [item for item in (self.default, *self.extra, *self.find_links) if item and item.startswith("file:")]
        return tuple(Path(unquote(urlsplit(item).path)) for item in urls)

    @property
    def secrets(self) -> tuple[str, ...]:
        """Passwords and tokens of these settings, decoded; a user name without a password is a token."""
        found = []
        for url in (self.default, *self.extra, *self.find_links, *(value for _, value in self.proxies)):
            parts = urlsplit(url or "")
            if secret := parts.password or parts.username:
                found.append(unquote(secret))
        return _unique(found)

    def redact(self, text: str) -> str:
        """`text` without the secrets, plain, URL-encoded or in a Basic header, and without user info in any URL."""
        text = re.sub(r"(?<=://)[^\s/'\"]+@", "***@", text)
        for form in sorted(self._forms(), key=len, reverse=True):
            text = text.replace(form, "***")
        return text

    def _forms(self) -> set[str]:
        forms = set()
        for secret in self.secrets:
            forms |= {secret, quote(secret), quote(secret, safe=""), secret.replace("@", "%40")}
        for url in (self.default, *self.extra, *self.find_links, *(value for _, value in self.proxies)):
            parts = urlsplit(url or "")
            if parts.username:
                pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
                forms |= {base64.b64encode(pair.encode()).decode(), parts.password or parts.username}
        return {form for form in forms if len(form) >= _SHORTEST_SECRET}


def _indexes(
    pip: Mapping[str, str], uv: Mapping[str, Any], environ: Mapping[str, str]
) -> tuple[str | None, list[str], str]:
    """(default index, extra indexes in order of priority, strategy), of uv if it names an index, else of pip."""
    default = environ.get("UV_DEFAULT_INDEX") or environ.get("UV_INDEX_URL")
    extra = [*_words(environ.get("UV_INDEX")), *_words(environ.get("UV_EXTRA_INDEX_URL"))]
    tables = [table for table in uv.get("index", []) if isinstance(table, dict) and not table.get("explicit")]
    extra += [_with_login(table, environ) for table in tables if not table.get("default")]
    extra += _words(uv.get("extra-index-url"))
    default = default or next((_with_login(table, environ) for table in tables if table.get("default")), None)
    default = default or uv.get("index-url")
    if default or extra:
        named = environ.get("UV_INDEX_STRATEGY") or uv.get("index-strategy") or "first-index"
        names = [_named_login(item, environ) for item in extra]
        return (_named_login(default, environ) if default else None), names, named
    extra = _words(pip.get("extra-index-url"))
    return pip.get("index-url"), extra, "unsafe-best-match" if extra else "first-index"


def _with_login(table: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    name = table.get("name")
    return _named_login(f"{name}={table['url']}" if name else str(table["url"]), environ)


def _named_login(item: str, environ: Mapping[str, str]) -> str:
    """ "name=URL" as a URL with the credentials of UV_INDEX_<NAME>_USERNAME and _PASSWORD."""
    match = re.match(r"([A-Za-z0-9._-]+)=(.+)", item)
    if match is None:
        return item
    name = re.sub(r"[^A-Za-z0-9]", "_", match[1]).upper()
    user, password = (environ.get(f"UV_INDEX_{name}_{key}") for key in ("USERNAME", "PASSWORD"))
    return _add_login(match[2], user or "", password) if user or password else match[2]


@dataclass(frozen=True)
class _Login:
    """Credentials that stand outside the URLs: netrc, and the keyring where the user asked for it."""

    environ: Mapping[str, str]
    keyring: bool

    def url(self, url: str) -> str:
        """`url` with credentials, if it needs and has some. A netrc `default` entry is not sent to every host."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or parts.password is not None:
            return url
        if parts.username is None and (found := self._netrc(parts.hostname or "")):
            return _add_login(url, *found)
        if self.keyring and parts.username and (password := self._keyring(url, unquote(parts.username))):
            return _add_login(url, unquote(parts.username), password)
        return url

    def _netrc(self, host: str) -> tuple[str, str] | None:
        import netrc

        home = Path(self.environ.get("HOME") or Path("~").expanduser())
        path = Path(self.environ.get("NETRC") or home / ".netrc")
        try:
            found = netrc.netrc(str(path)).hosts.get(host)
        except (OSError, netrc.NetrcParseError):
            return None
        return (found[0], found[2] or "") if found else None

    def _keyring(self, url: str, user: str) -> str | None:
        import subprocess

        parts = urlsplit(url)
        bare = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
        for service in (bare, parts.hostname or ""):
            try:
                done = subprocess.run(["keyring", "get", service, user], capture_output=True, text=True, timeout=30)
            except (OSError, subprocess.TimeoutExpired):
                return None
            if done.returncode == 0 and done.stdout.strip():
                return done.stdout.strip()
        return None


def _add_login(url: str, user: str, password: str | None) -> str:
    parts = urlsplit(url)
    info = quote(user, safe="") + (f":{quote(password, safe='')}" if password is not None else "")
    return urlunsplit(parts._replace(netloc=f"{info}@{parts.netloc.rpartition('@')[2]}"))


def _url(item: str) -> str:
    """An index or find-links location as a URL; directories as file:// with everything unusual encoded."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", item):
        return item
    return "file://" + quote(str(Path(item).expanduser().absolute()))


def _words(value: object, separator: str | None = None) -> list[str]:
    """A list from a TOML list or from a string of words."""
    if isinstance(value, list):
        return [str(item) for item in value]
    return [word.strip() for word in str(value or "").split(separator) if word.strip()]


def _unique(items: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(items))


def _ca_bundle(pip: Mapping[str, str], environ: Mapping[str, str]) -> Path | None:
    named = [pip.get("cert"), *(environ.get(key) for key in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"))]
    for item in named:
        if item and Path(item).expanduser().is_file():
            return Path(item).expanduser().absolute()
    # On Linux the distribution's own bundle, where a company's CA usually is; elsewhere the platform's trust store.
    system = ssl.get_default_verify_paths().cafile if sys.platform == "linux" else None
    return Path(system) if system else None


def _proxies(pip: Mapping[str, str], environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    found = {key: environ.get(key.lower()) or environ.get(key) for key in _PROXIES}
    if proxy := pip.get("proxy"):
        proxy = proxy if "://" in proxy else f"http://{proxy}"
        found |= {"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy}
    return tuple((key, value) for key, value in found.items() if value)
