"""Blobs of Azure's storage by its own library; Data Lake accounts answer the same."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from mpack.connections import Connection
from mpack.errors import InputError
from mpack.stores import faults
from mpack.stores.listing import found, of_type, revealed
from mpack.stores.model import Body, Bounds, Broken, Remote, RemoteFile
from mpack.stores.sums import told

_HINT = (
    "Set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or "
    "AZURE_STORAGE_SAS_TOKEN, log in by `az login`, or name a connection."
)
#: Hosts that Microsoft answers for: no other is sent a token because an address, or what a server said, names it.
_HOSTS = re.compile(
    r"[a-z0-9.-]+\.(?:core\.(?:windows\.net|chinacloudapi\.cn|usgovcloudapi\.net)|storage\.azure\.net"
    r"|fabric\.microsoft\.com)"
)
#: Bytes of one request: the library keeps that much in memory.
_PIECE = 8 << 20


def locate(location: str, bounds: Bounds, connection: Connection | None = None) -> Remote:
    """The blob or the blobs at abfs://CONTAINER/NAME or abfs[s]://CONTAINER@ACCOUNT.dfs.core.windows.net/NAME.

    Raises InputError artifact-missing or artifact-too-large, EnvironmentFault artifact-denied, download-failed or
    tool-missing.
    """
    host, _, key = location.partition("://")[2].partition("/")
    container, _, account = host.partition("@")
    if not re.fullmatch(r"[a-z0-9$](?:[a-z0-9-]{1,61}[a-z0-9])?", container):
        raise InputError("artifact-missing", "The address names no container.", "Write abfs://CONTAINER/NAME.")
    client = _client(container, account, of_type(connection, "azureblob", location), location)
    store = AbfsStore(client, location)
    identity = f"abfs {client.url.partition('?')[0]}"
    return found(location, key, bounds, one=lambda: store.head(key), below=store.below, store=store, identity=identity)


class AbfsStore:
    """A container; a blob's version is its ETag."""

    def __init__(self, client: Any, uri: str) -> None:
        self._client = client
        self._uri = uri

    def head(self, key: str) -> RemoteFile | None:
        """The blob of that name, or None; a Data Lake account's directories are blobs that say so."""
        try:
            with _faults(self._uri):
                blob = self._client.get_blob_client(key).get_blob_properties()
        except _Gone:
            return None
        directory = (blob.metadata or {}).get("hdi_isfolder") == "true"
        return None if directory else _file(blob, key.rpartition("/")[2], key)

    def below(self, prefix: str) -> Iterator[RemoteFile]:
        """All blobs with the prefix."""
        try:
            with _faults(self._uri):
                for blob in self._client.list_blobs(name_starts_with=prefix or None, include=["metadata"]):
                    if (blob.metadata or {}).get("hdi_isfolder") != "true":
                        yield _file(blob, blob.name, blob.name)
        except _Gone:
            return

    @contextmanager
    def open(self, file: RemoteFile, start: int) -> Iterator[Body]:
        """As `Store.open`."""
        yield Body(self._pieces(file, start), start)

    def _pieces(self, file: RemoteFile, start: int) -> Iterator[bytes]:
        from azure.core import MatchConditions

        blob = self._client.get_blob_client(file.key)
        at, size = start, file.size or 0
        while at < size:
            count = min(_PIECE, size - at)
            same = MatchConditions.IfNotModified
            try:
                with _faults(self._uri):
                    piece = blob.download_blob(at, count, etag=file.version, match_condition=same).readall()
            except _Gone:
                raise faults.changed(self._uri) from None
            if not piece:
                raise Broken(f"it ended after {at} of {size} bytes")
            at += len(piece)
            yield piece


def _file(blob: Any, path: str, key: str) -> RemoteFile:
    settings = blob.content_settings
    md5 = None if settings is None else settings.content_md5
    return RemoteFile(path, key, blob.size, blob.etag, told(md5=bytes(md5) if md5 else None))


class _Gone(Exception):
    """No such blob."""


@contextmanager
def _faults(uri: str) -> Iterator[None]:
    """Turns the library's errors into ours."""
    from azure.core import exceptions as azure

    try:
        yield
    except azure.ClientAuthenticationError as error:
        raise faults.denied(uri, _code(error), _HINT) from None
    except azure.HttpResponseError as error:
        code, status = _code(error), error.status_code or 0
        if code == "the store answers ContainerNotFound":
            raise faults.missing(uri, "there is no such container", "Check container and account.") from None
        if status == 404:
            raise _Gone from None
        if status in (401, 403):
            raise faults.denied(uri, code, _HINT) from None
        if status in (412, 416):
            raise faults.changed(uri) from None
        if status in (408, 429) or status >= 500 or status in (200, 206):
            raise Broken(code) from None
        raise faults.failed(uri, code) from None
    except azure.AzureError as error:
        text = str(error)
        if "resolve" in text or "CERTIFICATE" in text:
            reason = "the name is not known" if "resolve" in text else "the server's certificate is not trusted"
            raise faults.failed(uri, reason) from None
        raise Broken(f"the connection broke ({type(error).__name__})") from None


def _code(error: Any) -> str:
    code = getattr(error, "error_code", None) or error.status_code or type(error).__name__
    return f"the store answers {getattr(code, 'value', code)}"


def _client(container: str, account: str, connection: Connection | None, uri: str) -> Any:
    try:
        from azure.storage.blob import ContainerClient
    except ImportError as error:
        raise faults.no_tool("abfs", "abfs", error) from None
    options = {"retry_total": 1, "connection_timeout": 15, "read_timeout": 30, "max_single_get_size": _PIECE}
    endpoint, secret = _endpoint(account, connection, uri), None
    if connection is not None:
        secret = revealed(connection.key_secret)
    elif not account:
        secret = os.environ.get("AZURE_STORAGE_CONNECTION_STRING")
    try:
        if secret and "=" in secret.partition(";")[0] and ";" in secret and "://" not in secret.partition("=")[0]:
            return ContainerClient.from_connection_string(secret, container, **options)
        if secret and secret.startswith("https://"):
            endpoint, _, secret = secret.partition("?")
            endpoint = "/".join(endpoint.split("/")[:3])
        if endpoint is None:
            raise faults.denied(uri, "no account is named for it", _HINT)
        credential = secret.lstrip("?") if secret else _of_host()
        return ContainerClient(endpoint, container, credential=credential, **options)
    except ValueError:
        # The library's words may have the secret.
        raise faults.denied(
            uri, "the account's name or key is not in a form that Azure's library takes", _HINT
        ) from None


def _endpoint(account: str, connection: Connection | None, uri: str) -> str | None:
    """The account's address for blobs, by the location, the connection or the environment.

    Raises EnvironmentFault artifact-denied for an account at a host that is not Azure's.
    """
    if account:
        if not _HOSTS.fullmatch(account.lower()):
            hint = "For another host name a connection, or set AZURE_STORAGE_CONNECTION_STRING; leave @HOST out."
            raise faults.denied(uri, f"{account} is no host of Azure's, and credentials go to no other", hint)
        return f"https://{account.replace('.dfs.', '.blob.', 1)}"
    if connection is not None:
        parts = urlsplit(connection.uri)
        if parts.scheme in ("http", "https"):
            return f"{parts.scheme}://{parts.netloc}"
    name = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME") or os.environ.get("AZURE_STORAGE_ACCOUNT")
    return f"https://{name}.blob.core.windows.net" if name else None


def _of_host() -> Any:
    for name in ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN"):
        if value := os.environ.get(name):
            return value
    try:
        from azure.identity import DefaultAzureCredential
    except ImportError as error:
        raise faults.no_tool("abfs", "abfs", error) from None
    return DefaultAzureCredential()
