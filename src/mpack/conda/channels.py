"""Conda's channels as this host has them: condarc files, CONDA_* variables, and what of it is secret.

Understood are channels, default_channels, channel_alias, custom_channels, mirrored_channels, channel_priority,
ssl_verify and proxy_servers. A channel's name is what locks, plans and messages hold; its address, which may be a
mirror's and carry a token, stays in this process and in py-rattler's.
"""

from __future__ import annotations

import os
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from mpack.errors import EnvironmentFault, InputError
from mpack.records import dataclass

_ALIAS = "https://conda.anaconda.org"
_ANACONDA = {"pkgs/main": "https://repo.anaconda.com", "pkgs/r": "https://repo.anaconda.com"}
_FILES = ("/etc/conda/.condarc", "/etc/conda/condarc", "/var/lib/conda/.condarc")
_USER_FILES = (".config/conda/.condarc", ".config/conda/condarc", ".conda/.condarc", ".conda/condarc", ".condarc")
#: Of a name; anything else is an address.
NAME = re.compile(r"[A-Za-z0-9_][\w.-]*(/[\w.-]+)*")


@dataclass(frozen=True)
class Channels:
    """The host's settings. Addresses may carry credentials, so none of them is in the repr."""

    alias: str = field(default=_ALIAS, repr=False)
    own: tuple[str, ...] = field(default=("conda-forge",), repr=False)
    defaults: tuple[str, ...] = field(default=tuple(_ANACONDA), repr=False)
    custom: Mapping[str, str] = field(default_factory=lambda: dict(_ANACONDA), repr=False)
    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    priority: str = "strict"
    verify: bool = True
    ca_bundle: str | None = None
    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def from_host(cls, environ: Mapping[str, str] = os.environ) -> Channels:
        """What conda on this host would use. Raises EnvironmentFault index-unreachable for a bad file."""
        options = _options(environ)
        verify = options.get("ssl_verify", True)
        file = verify if isinstance(verify, str) and verify not in ("truststore", "<truststore>") else None
        default = cls()
        return cls(
            alias=str(options.get("channel_alias") or default.alias).rstrip("/"),
            own=_texts(options.get("channels")) or default.own,
            defaults=_texts(options.get("default_channels")) or default.defaults,
            custom={**default.custom, **_mapping(options.get("custom_channels"))},
            mirrors={str(key): _texts(value) for key, value in _mapping(options.get("mirrored_channels")).items()},
            priority="disabled" if str(options.get("channel_priority")) in ("disabled", "False") else "strict",
            verify=verify is not False,
            ca_bundle=file,
            proxies={str(key): str(value) for key, value in _mapping(options.get("proxy_servers")).items()},
        )

    def wanted(self, channels: Sequence[str]) -> tuple[str, ...]:
        """The channels of an environment, in order, with `defaults` spelt out; the host's own where it names none."""
        found: dict[str, None] = {}
        for name in channels or self.own:
            found |= dict.fromkeys(self.defaults if name == "defaults" else (name,))
        return tuple(found)

    def url(self, channel: str) -> str:
        """The address of a channel on this host, with its credentials, without a final slash."""
        if not NAME.fullmatch(channel):
            return _file(channel)
        if mirrors := self.mirrors.get(channel):
            return _file(mirrors[0])
        base = next((self.custom[key] for key in _keys(channel) if key in self.custom), self.alias)
        return f"{_file(base)}/{channel}"

    def public(self, channel: str) -> str:
        """The channel as others may see it. Raises InputError for a directory of this host without a name."""
        if NAME.fullmatch(channel):
            return channel
        shown = re.sub(r"/t/[^/]+", "", re.sub(r"//[^/@]*@", "//", channel)).partition("?")[0].rstrip("/")
        if not shown.startswith(("https://", "http://")):
            raise InputError(
                "requirements-invalid",
                f"The channel {shown!r} is a directory of one machine, and its packages are locked for all.",
                "Give it a name: `custom_channels: {NAME: file:///the/directory/above}` in ~/.condarc.",
            )
        return shown

    def environment(self) -> dict[str, str]:
        """What py-rattler's process is told by variables."""
        found = {
            f"{scheme.upper()}_PROXY": self.proxies[scheme] for scheme in ("http", "https") if scheme in self.proxies
        }
        return found | ({"SSL_CERT_FILE": self.ca_bundle} if self.ca_bundle else {})

    def access(self, channels: Iterable[str]) -> dict[str, Any]:
        """How channels are reached, as `worker.py` wants it: name -> address without secrets; where that is reached
        with a token; headers by host and path. py-rattler keeps the addresses that it is given, so they hold none."""
        addresses, mirrors, logins = {}, {}, []
        for name in channels:
            address = self.url(name)
            parts = urlsplit(address)
            reached = parts._replace(netloc=parts.netloc.rpartition("@")[2])
            public = reached._replace(path=re.sub(r"^(.*?)/t/[^/]+", r"\1", parts.path))
            addresses[self.public(name)] = urlunsplit(public)
            if reached != public:
                mirrors[urlunsplit(public)] = [urlunsplit(reached)]
            if parts.username:
                login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
                logins.append([parts.hostname, reached.path, f"Basic {b64encode(login).decode()}"])
        return {"channels": addresses, "mirrors": mirrors, "logins": logins, "verify": self.verify}

    def redact(self, text: str) -> str:
        """The text without credentials of any channel or proxy."""
        for address in (self.alias, *self.own, *self.defaults, *self.custom.values(), *self.proxies.values()):
            for secret in _secrets(str(address)):
                text = text.replace(secret, "***")
        for addresses in self.mirrors.values():
            for secret in (secret for address in addresses for secret in _secrets(address)):
                text = text.replace(secret, "***")
        return re.sub(r"/t/[^/\s]+/", "/t/***/", re.sub(r"//[^/@\s]+@", "//***@", text))


def _keys(channel: str) -> list[str]:
    """A channel's name and those above it: settings of "a" hold for "a/b"."""
    parts = channel.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]


def _secrets(address: str) -> list[str]:
    found = re.findall(r"//([^/@]+)@", address) + re.findall(r"/t/([^/]+)", address)
    return [part for item in found for part in (item, item.partition(":")[2]) if len(part) > 3]


def _file(address: str) -> str:
    """An address as a URL: conda takes directories too."""
    address = address.rstrip("/")
    return Path(address).expanduser().as_uri() if address.startswith(("/", "~")) else address


def _options(environ: Mapping[str, str]) -> dict[str, Any]:
    """All files' options, later ones over earlier ones, then the variables."""
    home = Path(environ.get("HOME") or "~").expanduser()
    files = [Path(item) for item in _FILES]
    if config := environ.get("XDG_CONFIG_HOME"):
        files += [Path(config) / "conda" / ".condarc", Path(config) / "conda" / "condarc"]
    files += [home / item for item in _USER_FILES]
    if named := environ.get("CONDARC"):
        files.append(Path(named).expanduser())
    options: dict[str, Any] = {}
    for path in files:
        for key, value in _read(path, environ).items():
            merged = isinstance(value, dict) and isinstance(options.get(key), dict)
            options[key] = {**options[key], **value} if merged else value
    for key in ("channel_alias", "ssl_verify"):
        if value := environ.get(f"CONDA_{key.upper()}"):
            options[key] = _plain(value)
    if value := environ.get("CONDA_CHANNELS"):
        options["channels"] = value.split(",")
    return options


def _plain(value: str) -> Any:
    return {"false": False, "no": False, "0": False, "true": True, "yes": True, "1": True}.get(value.lower(), value)


def _read(path: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or "it is not YAML"
        raise EnvironmentFault(
            "index-unreachable", f"conda's configuration {path} cannot be read: {reason}.", "Mend it, or move it away."
        ) from error
    if not isinstance(found, dict):
        return {}
    return {str(key): _expanded(value, environ) for key, value in found.items()}


def _expanded(value: Any, environ: Mapping[str, str]) -> Any:
    """The value with $NAME and ${NAME} as conda reads them."""
    if isinstance(value, str):
        return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda match: environ.get(match[1] or match[2], match[0]), value)
    if isinstance(value, list):
        return [_expanded(item, environ) for item in value]
    if isinstance(value, dict):
        return {key: _expanded(item, environ) for key, item in value.items()}
    return value


def _texts(value: Any) -> tuple[str, ...]:
    items = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return tuple(str(item) for item in items if str(item) != "nodefaults")


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
