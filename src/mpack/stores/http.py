"""Files by http(s): ranges, validators, redirects. What Google's store and MLflow's server answer is read by it too."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from mpack import address
from mpack.redaction import hide
from mpack.stores import faults
from mpack.stores.model import Body, Bounds, Broken, Remote, RemoteFile
from mpack.stores.sums import told

if TYPE_CHECKING:
    import httpx

#: Seconds without a byte, not for the whole file.
TIMEOUT = 30.0
_BUSY = {408, 425, 429, 500, 502, 503, 504}
#: Bytes of an API's answer.
_LIMIT = 32 << 20
_PLAIN = {"Accept-Encoding": "identity"}


def client(uri: str, **options: object) -> httpx.Client:
    """A client that waits `TIMEOUT` seconds for each step. Raises EnvironmentFault for a CA bundle that is not one."""
    import httpx

    try:
        return httpx.Client(timeout=TIMEOUT, max_redirects=10, **options)  # type: ignore[arg-type]
    except OSError as error:
        raise faults.failed(uri, f"the CA bundle cannot be read ({error.strerror or error})") from None


def file_name(url: str) -> str:
    """The last part of the URL's path, or "model"."""
    return unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2] or "model"


def locate(url: str, bounds: Bounds) -> Remote:
    """The one file that an http(s) URL names; a password in it is sent as http's own.

    Raises InputError artifact-missing or artifact-too-large, EnvironmentFault artifact-denied or download-failed.
    """
    uri = address.public(url)
    try:
        hide(unquote(urlsplit(url).password or ""))
    except ValueError:
        raise faults.failed(uri, "it is no URL") from None
    store = HttpStore(client(uri, follow_redirects=True), uri)
    file = faults.patient(lambda: store.look(url, file_name(url)), uri)
    if file.size is not None and file.size > bounds.total:
        raise faults.too_large(uri, bounds)
    return Remote(uri, file.path, (file,), False, store, "https")


class HttpStore:
    """Files whose keys are URLs; `pinned`: of one version each. `uri` is what messages call the place."""

    def __init__(self, client: httpx.Client, uri: str, *, pinned: bool = False) -> None:
        self._client = client
        self._uri = uri
        self._pinned = pinned

    def look(self, url: str, path: str) -> RemoteFile:
        """Asks for one byte: some servers, and signed URLs, allow no HEAD."""
        with self._answer(url, {"Range": "bytes=0-0"}, self._uri) as response:
            size, of = response.headers.get("Content-Length"), response.headers.get("Content-Range", "")
            if response.status_code != 200:
                size = of.rpartition("/")[2]
            length = int(size) if size and size.isdecimal() else None
            return RemoteFile(path, url, length, _version(response), _checksums(response, whole=False))

    @contextmanager
    def open(self, file: RemoteFile, start: int) -> Iterator[Body]:
        """As `Store.open`. Where a server does not know the version any more, it sends what it has now."""
        known = "" if self._pinned else file.version
        wanted = {"Range": f"bytes={start}-", **({"If-Range": known} if known else {})} if start else {}
        with self._answer(file.key, wanted, self._uri) as response:
            if response.status_code == 416 or (known and _version(response) not in (known, "")):
                raise faults.changed(self._uri)
            begun = start if response.status_code == 206 else 0
            if begun and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                raise Broken("the server sent another range than it was asked for")
            yield Body(response.iter_raw(), begun, _checksums(response, whole=not begun))

    def json(self, url: str, params: Mapping[str, str] | None = None, absent: tuple[int, ...] = ()) -> object:
        """What an API answers, of at most `_LIMIT` bytes; the statuses `absent` too say that nothing is there."""
        import json

        data = bytearray()
        with self._answer(url, {}, self._uri, params, absent) as response:
            for block in response.iter_bytes(1 << 20):
                data += block
                if len(data) > _LIMIT:
                    raise faults.failed(self._uri, f"the server's answer has more than {_LIMIT} bytes")
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise faults.failed(self._uri, "the server's answer is no JSON", "Is this the API's address?") from None

    @contextmanager
    def _answer(
        self,
        url: str,
        headers: Mapping[str, str],
        uri: str,
        params: Mapping[str, str] | None = None,
        absent: tuple[int, ...] = (),
    ) -> Iterator[httpx.Response]:
        import httpx

        try:
            with self._client.stream("GET", url, headers={**_PLAIN, **headers}, params=params) as response:
                check(response, url, uri, absent)
                yield response
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects, httpx.ConnectError) as error:
            reason = _reason(error)
            if isinstance(error, httpx.ConnectError) and not re.search("CERTIFICATE|SSL|Name or service", reason):
                raise Broken(reason) from None
            raise faults.failed(uri, reason) from None
        except httpx.LocalProtocolError:
            # The library's words quote the header.
            raise faults.denied(uri, "a header cannot be sent", "Is there a line's end in a token?") from None
        except httpx.HTTPError as error:
            raise Broken(_reason(error)) from None


def check(response: httpx.Response, url: str, uri: str, absent: tuple[int, ...] = ()) -> None:
    """Raises for every answer that is not the content, as `Store.open`; the store's own words for it are added."""
    status = response.status_code
    way = (*response.history, response)
    if url.lower().startswith("https:") and any(step.url.scheme != "https" for step in way):
        raise faults.failed(uri, "it redirects to an unencrypted address", "Ask its owner, or use http:// itself.")
    if status in (404, 410, *absent):
        raise faults.missing(uri, f"the server answers {status}")
    if status in (401, 403):
        hint = "It may want credentials: https://USER:PASSWORD@… for a URL; see `artifacts-from-stores` in the docs."
        raise faults.denied(uri, f"the server answers {status}", hint)
    if status == 412:
        raise faults.changed(uri)
    if status in _BUSY:
        raise Broken(f"the server answers {status}")
    if status not in (200, 206, 416):
        raise faults.failed(uri, f"the server answers {status}")


def _version(response: httpx.Response) -> str:
    """A strong validator: the ETag, else when it was last changed; "" for neither."""
    tag = str(response.headers.get("ETag", ""))
    return tag if tag.startswith('"') else str(response.headers.get("Last-Modified", "")) if not tag else ""


def _checksums(response: httpx.Response, *, whole: bool) -> dict[str, str]:
    """What headers tell of the whole content; Content-MD5 is of what was sent."""
    headers = response.headers
    found = {"sha256": headers.get("x-amz-checksum-sha256"), "md5": headers.get("Content-MD5") if whole else None}
    for item in headers.get("x-goog-hash", "").split(","):
        name, _, value = item.strip().partition("=")
        if name in ("md5", "crc32c") and "x-goog-stored-content-encoding" not in headers:
            found[name] = value
    for item in headers.get("Repr-Digest", "").split(","):
        name, _, value = item.strip().partition("=:")
        if name == "sha-256":
            found["sha256"] = value.rstrip(":")
    if "Content-Encoding" in headers:
        return {}
    return told(**{name: value for name, value in found.items() if value})


def _reason(error: Exception) -> str:
    """The error's own words; httpx names the whole URL in some of them."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return re.sub(r"https?://[^\s'\"]+", lambda match: address.public(match[0]), text).rstrip(".")
