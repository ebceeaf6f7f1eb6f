"""The configuration that pip and uv read on this host: pip.conf, PIP_*, uv.toml and UV_*, as plain values.

Project configuration (uv.toml or pyproject.toml of the working directory) is not read: an artifact's build must not
depend on where it is started.
"""

from __future__ import annotations

import configparser
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mpack.errors import EnvironmentFault

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - the same parser under its older name
    import tomli as tomllib


def pip_options(environ: Mapping[str, str]) -> dict[str, str]:
    """pip's options for `pip install` by their long names ("index-url"), later sources winning as they do in pip.

    Raises EnvironmentFault index-unreachable for a pip.conf that cannot be read.
    """
    options: dict[str, str] = {}
    for path in _pip_files(environ):
        parser = configparser.RawConfigParser()
        try:
            with path.open(encoding="utf-8", errors="replace") as stream:
                parser.read_file(stream)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, configparser.Error) as error:
            raise _unreadable("pip", path, error) from error
        for section in ("global", "install"):
            if parser.has_section(section):
                options.update({_name(key): value for key, value in parser.items(section)})
    for key, value in environ.items():
        if key.startswith("PIP_") and value and key != "PIP_CONFIG_FILE":
            options[_name(key[4:])] = value
    return options


def uv_options(environ: Mapping[str, str]) -> dict[str, Any]:
    """uv's options from uv.toml of the user and the system, the user's winning; its [pip] table over the rest.

    Raises EnvironmentFault index-unreachable for a uv.toml that cannot be read.
    """
    options: dict[str, Any] = {}
    for path in _uv_files(environ):
        try:
            data = tomllib.loads(path.read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            raise _unreadable("uv", path, error) from error
        pip = data.pop("pip", {})
        options.update(data)
        options.update(pip if isinstance(pip, dict) else {})
    return options


def _name(key: str) -> str:
    return key.lower().replace("_", "-").removeprefix("--")


def _unreadable(tool: str, path: Path, error: Exception) -> EnvironmentFault:
    # A parser's message may quote a line with a password: only its kind is told.
    reason = error.strerror if isinstance(error, OSError) else "it is not well-formed"
    return EnvironmentFault(
        "index-unreachable",
        f"The {tool} configuration {path} cannot be read: {reason}.",
        f"Mend the file; {tool} on this host refuses it as well.",
    )


def _home(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("HOME") or Path("~").expanduser())


def _pip_files(environ: Mapping[str, str]) -> list[Path]:
    """pip's files in its order, the later ones winning; PIP_CONFIG_FILE replaces the user's, and /dev/null all."""
    named = environ.get("PIP_CONFIG_FILE", "")
    if named == os.devnull:
        return []
    home = _home(environ)
    if sys.platform == "darwin":
        files = [Path("/Library/Application Support/pip/pip.conf")]
    else:
        dirs = environ.get("XDG_CONFIG_DIRS") or "/etc/xdg"
        files = [Path(item, "pip", "pip.conf") for item in dirs.split(os.pathsep) if item] + [Path("/etc/pip.conf")]
    if not (named and Path(named).exists()):
        files.append(home / ".pip" / "pip.conf")
        mac = home / "Library" / "Application Support" / "pip"
        config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip"
        files.append((mac if sys.platform == "darwin" and mac.is_dir() else config) / "pip.conf")
    files.append(Path(environ.get("VIRTUAL_ENV") or sys.prefix, "pip.conf"))
    return [*files, Path(named)] if named else files


def _uv_files(environ: Mapping[str, str]) -> list[Path]:
    if environ.get("UV_NO_CONFIG", "").lower() in ("1", "true", "yes", "on"):
        return []
    if named := environ.get("UV_CONFIG_FILE"):
        return [Path(named)]
    dirs = environ.get("XDG_CONFIG_DIRS") or "/etc/xdg"
    system = [Path(item, "uv", "uv.toml") for item in dirs.split(os.pathsep) if item] + [Path("/etc/uv/uv.toml")]
    found = next((path for path in system if path.is_file()), None)
    user = Path(environ.get("XDG_CONFIG_HOME") or _home(environ) / ".config") / "uv" / "uv.toml"
    return [found, user] if found else [user]
