"""Objects of Google Cloud Storage by its JSON API; google-auth brings the credentials."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from mpack.connections import Connection
from mpack.errors import InputError
from mpack.stores import faults
from mpack.stores.http import HttpStore, client
from mpack.stores.listing import found, of_type, revealed
from mpack.stores.model import Bounds, Remote, RemoteFile
from mpack.stores.sums import told

if TYPE_CHECKING:
    import httpx

_SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"
_HINT = "Set GOOGLE_APPLICATION_CREDENTIALS, run `gcloud auth application-default login`, or name a connection."


def locate(location: str, bounds: Bounds, connection: Connection | None = None) -> Remote:
    """The object or the objects at gs://BUCKET/NAME. STORAGE_EMULATOR_HOST names another server, without credentials.

    Raises InputError artifact-missing or artifact-too-large, EnvironmentFault artifact-denied, download-failed or
    tool-missing.
    """
    bucket, _, key = location[len("gs://") :].partition("/")
    if not bucket or not set(bucket) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-_"):
        raise InputError("artifact-missing", "The address names no bucket.", "Write gs://BUCKET/NAME.")
    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    host = emulator if emulator and "://" in emulator else f"http://{emulator}" if emulator else ""
    auth = None if emulator and connection is None else _auth(of_type(connection, "gcs", location), location)
    place = f"{host.rstrip('/') or 'https://storage.googleapis.com'}/storage/v1/b/{bucket}/o"
    store = GsStore(HttpStore(client(location, auth=auth), location, pinned=True), place)
    return found(
        location, key, bounds, one=lambda: store.look(key), below=store.below, store=store.http, identity=f"gs {place}"
    )


class GsStore:
    """A bucket; an object's version is its generation, and its key the address of just that."""

    def __init__(self, http: HttpStore, place: str) -> None:
        self.http = http
        self._place = place

    def look(self, key: str) -> RemoteFile | None:
        """The object of that name, or None."""
        for file in self._page(self.http.json(self._place, {"prefix": key, "maxResults": "1"}))[0]:
            if file.path == key:
                return replace(file, path=key.rpartition("/")[2])
        return None

    def below(self, prefix: str) -> Iterator[RemoteFile]:
        """All objects with the prefix."""
        token = ""
        while True:
            more = {"pageToken": token} if token else {}
            files, token = self._page(self.http.json(self._place, {"prefix": prefix, **more}))
            yield from files
            if not token:
                return

    def _page(self, page: Any) -> tuple[list[RemoteFile], str]:
        files = []
        for item in page.get("items", ()):
            name, generation = str(item["name"]), str(item.get("generation", ""))
            at = f"{self._place}/{quote(name, safe='')}?alt=media" + (f"&generation={generation}" if generation else "")
            sums = told(md5=item.get("md5Hash"), crc32c=item.get("crc32c"))
            files.append(RemoteFile(name, at, int(item["size"]), generation, sums))
        return files, str(page.get("nextPageToken", ""))


def _auth(connection: Connection | None, uri: str) -> httpx.Auth:
    """Bearer tokens of the service account in the connection, else of the host's own account."""
    try:
        import google.auth
        import google.auth.exceptions
        from google.auth.transport.requests import Request
        from google.oauth2 import service_account
    except ImportError as error:
        raise faults.no_tool("gs", "gs", error) from None
    import httpx

    try:
        if connection is not None and (text := revealed(connection.key_secret)):
            account = service_account.Credentials.from_service_account_info(json.loads(text), scopes=[_SCOPE])
        else:
            account, _ = google.auth.default(scopes=[_SCOPE])
    except google.auth.exceptions.GoogleAuthError as error:
        raise faults.denied(uri, f"there are no credentials for it ({type(error).__name__})", _HINT) from None
    except (ValueError, KeyError, TypeError):
        hint = "keySecret is the JSON of a service account's key."
        raise faults.denied(uri, "the key in the connection is none of a service account", hint) from None

    class Bearer(httpx.Auth):
        def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
            try:
                if not account.valid:
                    account.refresh(Request())
            except google.auth.exceptions.GoogleAuthError as error:
                raise faults.denied(uri, f"the credentials are refused ({type(error).__name__})", _HINT) from None
            request.headers["Authorization"] = f"Bearer {account.token}"
            yield request

    return Bearer()
