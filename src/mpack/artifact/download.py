"""Fetching an artifact by http(s), with limits, and without its URL's secrets in any message."""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit, urlunsplit

from mpack.artifact.archive import create, disk_fault
from mpack.artifact.limits import Limits
from mpack.errors import EnvironmentFault, InputError

if TYPE_CHECKING:
    import httpx

#: Seconds without a byte, not for the whole file.
TIMEOUT = 30.0


def is_url(location: str) -> bool:
    """True for an http or https URL."""
    return location.lower().startswith(("http://", "https://"))


def public_url(url: str) -> str:
    """The URL without user, password, query and fragment: any of them may hold a secret."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def file_name(url: str) -> str:
    """The last part of the URL's path, or "model"."""
    return unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2] or "model"


def download(url: str, directory: Path, limits: Limits) -> Path:
    """Writes what `url` answers to a new file in `directory`. A fragment `#sha256=HEX` is checked.

    Raises InputError (artifact-missing, artifact-digest, artifact-too-large) and EnvironmentFault (download-failed,
    disk-full); nothing is left behind then.
    """
    import httpx

    path = directory / "download"
    location = public_url(url)
    try:
        with (
            httpx.Client(timeout=TIMEOUT, follow_redirects=True, max_redirects=10) as client,
            client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as response,
        ):
            _check_answer(response, url, location)
            sha256 = _save(response, path, limits, location)
        _check_digest(url, sha256, location)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        _remove(path)
        raise EnvironmentFault(
            "download-failed",
            f"{location} cannot be fetched: {_reason(error, url)}.",
            "Check the address, the proxy settings and the CA bundle (SSL_CERT_FILE).",
        ) from None
    except BaseException:
        _remove(path)
        raise
    return path


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _reason(error: Exception, url: str) -> str:
    """The error's own words; httpx names the whole URL in some of them."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return re.sub(r"https?://\S+", lambda match: public_url(match[0]), text.replace(url, public_url(url))).rstrip(".")


def _check_answer(response: httpx.Response, url: str, location: str) -> None:
    status = response.status_code
    if url.lower().startswith("https:") and response.url.scheme != "https":
        raise EnvironmentFault(
            "download-failed",
            f"{location} redirects to an unencrypted address.",
            "Ask its owner, or use http:// itself.",
        )
    if status in (404, 410):
        raise InputError(
            "artifact-missing", f"Nothing is at {location}: the server answers {status}.", "Check the URL."
        )
    if status != 200:
        hint = "It may want credentials: https://USER:PASSWORD@…" if status in (401, 403) else "Try again later."
        raise EnvironmentFault("download-failed", f"{location} cannot be fetched: the server answers {status}.", hint)


def _save(response: httpx.Response, path: Path, limits: Limits, location: str) -> str:
    """Writes the body to `path`; its SHA-256."""
    digest = hashlib.sha256()
    size = 0
    try:
        output = create(path)
    except OSError as error:
        raise disk_fault(error, path) from error
    with output:
        for block in response.iter_bytes(1 << 20):
            size += len(block)
            if size > limits.total:
                raise InputError(
                    "artifact-too-large",
                    f"{location} is larger than {limits.total} bytes.",
                    "Raise the limit with --max-size if that is meant.",
                )
            digest.update(block)
            try:
                output.write(block)
            except OSError as error:
                raise disk_fault(error, path) from error
    return digest.hexdigest()


def _check_digest(url: str, sha256: str, location: str) -> None:
    name, _, wanted = urlsplit(url).fragment.partition("=")
    if name == "sha256" and wanted.lower() != sha256:
        raise InputError(
            "artifact-digest",
            f"{location} has the SHA-256 {sha256}, not {wanted.lower()}.",
            "It was changed or damaged on the way, or the digest in the URL is of another version.",
        )
