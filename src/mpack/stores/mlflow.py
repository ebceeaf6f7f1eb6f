"""Models and runs of an MLflow tracking server by its REST API: what a name, an alias or a run stands for, and where
its artifacts are."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from mpack.connections import Connection
from mpack.errors import EnvironmentFault, InputError, UsageError
from mpack.records import dataclass
from mpack.redaction import hide
from mpack.stores import faults
from mpack.stores.http import HttpStore, client
from mpack.stores.model import Bounds, Remote, RemoteFile

_API = "/api/2.0/mlflow"
_PROXY = "/api/2.0/mlflow-artifacts/artifacts"
_DEPTH = 50
#: Bytes from which on one request more is worth it.
_LARGE = 1 << 20


@dataclass(frozen=True)
class Resolved:
    """What an address of MLflow's stands for: `uri` without aliases, and where the artifacts are."""

    uri: str
    root: str
    title: str
    facts: Mapping[str, str]


def locate(location: str, bounds: Bounds, connection: Connection | None = None) -> Remote:
    """The artifacts of models:/NAME/VERSION, models:/NAME@ALIAS, models:/NAME/latest, models:/m-ID and
    runs:/RUN_ID/PATH.

    `connection` is for the store that has them, where the server does not hand them out itself. Raises what other
    stores raise, and UsageError for an address of another form.
    """
    server = Server(location)
    with _understood(location):
        try:
            resolved = server.resolve(location)
        except InputError as error:
            raise InputError(error.code, error.message, f"Is it on {server.base}?") from None
        root = urlsplit(resolved.root)
    if root.scheme == "mlflow-artifacts":
        with _understood(location):
            remote = server.artifacts(resolved, bounds)
    elif root.scheme in ("s3", "gs", "abfs", "abfss", "http", "https"):
        from mpack.stores.places import locate as elsewhere

        remote = elsewhere(resolved.root, bounds, connection)
    else:
        raise EnvironmentFault(
            "download-failed",
            f"{resolved.uri} cannot be fetched: the server has its artifacts to itself ({root.scheme or 'file'}).",
            "Start the tracking server with --serve-artifacts, or with an artifact root in an object store.",
        )
    return replace(remote, uri=resolved.uri, title=resolved.title, facts=resolved.facts)


@contextmanager
def _understood(location: str) -> Iterator[None]:
    """Turns what comes of an answer of another form than MLflow's into the error for that."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError):
        reason = "the server's answer is another than MLflow's"
        raise faults.failed(location, reason, "Is this an MLflow tracking server?") from None


class Server:
    """A tracking server, as MLFLOW_TRACKING_URI (for models MLFLOW_REGISTRY_URI) names it."""

    def __init__(self, location: str) -> None:
        tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
        uri = (location.startswith("models:") and os.environ.get("MLFLOW_REGISTRY_URI")) or tracking
        parts = urlsplit(uri)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            told = f"MLFLOW_TRACKING_URI is {parts.scheme}:…" if uri else "MLFLOW_TRACKING_URI is not set"
            raise EnvironmentFault(
                "download-failed",
                f"{location} cannot be fetched: {told}, and mpack asks tracking servers only.",
                "export MLFLOW_TRACKING_URI=https://HOST",
            )
        headers = {}
        if token := os.environ.get("MLFLOW_TRACKING_TOKEN", "").strip():
            if not (token.isascii() and token.isprintable()):
                raise faults.denied(location, "MLFLOW_TRACKING_TOKEN has characters that no token has", "Correct it.")
            hide(token)
            headers["Authorization"] = f"Bearer {token}"
        user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
        auth = (user or "", password or "") if (user or password) and not token else None
        hide(password or unquote(parts.password or ""))
        insecure = os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("1", "true")
        verify: Any = not insecure
        if (bundle := os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH")) and not insecure:
            import ssl

            try:
                verify = ssl.create_default_context(cafile=bundle)
            except OSError as error:
                reason = f"MLFLOW_TRACKING_SERVER_CERT_PATH cannot be read ({error.strerror or error})"
                raise faults.failed(location, reason) from None
        self.base = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
        self._url = uri.rstrip("/")
        self._host = parts.hostname
        self._http = HttpStore(client(location, headers=headers, auth=auth, verify=verify), location)
        self._location = location

    def resolve(self, location: str) -> Resolved:
        """What the address stands for. Raises InputError artifact-missing, UsageError."""
        kind, _, rest = location.partition(":/")
        rest = rest.lstrip("/")
        if kind.lower() == "runs":
            run, _, path = rest.partition("/")
            if not re.fullmatch(r"\w{1,64}", run) or ".." in path.split("/"):
                raise _form(location)
            root = str(self._ask("runs/get", run_id=run)["run"]["info"]["artifact_uri"])
            inside = path.strip("/")
            title = inside.rpartition("/")[2] or run
            return Resolved(f"runs:/{run}/{inside}", f"{root.rstrip('/')}/{inside}", title, {"run_id": run})
        if re.fullmatch(r"m-[0-9a-f]{8,64}", rest):
            info = self._ask(f"logged-models/{rest}")["model"]["info"]
            facts = {"model_id": rest, **({"run_id": str(run)} if (run := info.get("source_run_id")) else {})}
            return Resolved(f"models:/{rest}", str(info["artifact_uri"]), str(info.get("name") or rest), facts)
        return self._registered(location, rest)

    def _registered(self, location: str, rest: str) -> Resolved:
        name, at, alias = rest.rpartition("@")
        if not at:
            name, _, version = rest.rpartition("/")
        if not name or "/" in name or not (alias if at else version):
            raise _form(location)
        if at:
            found = self._ask("registered-models/alias", name=name, alias=alias)["model_version"]
        elif version.isdecimal():
            found = self._ask("model-versions/get", name=name, version=version)["model_version"]
        else:
            stages = {} if version.lower() == "latest" else {"stages": version}
            several = self._ask("registered-models/get-latest-versions", name=name, **stages).get("model_versions", [])
            if not several:
                raise faults.missing(location, f"no version of {name} is there")
            found = max(several, key=lambda item: int(item["version"]))
        number = str(found["version"])
        root = str(self._ask("model-versions/get-download-uri", name=name, version=number)["artifact_uri"])
        facts = {"model_version": number, **({"run_id": str(found["run_id"])} if found.get("run_id") else {})}
        return Resolved(f"models:/{name}/{number}", root, name, facts)

    def _ask(self, what: str, **values: str) -> dict[str, Any]:
        # An alias that nobody gave is a wrong parameter to MLflow.
        absent = (400,) if "alias" in values else ()
        answer = faults.patient(lambda: self._http.json(f"{self._url}{_API}/{what}", values, absent), self._location)
        if not isinstance(answer, dict):
            raise TypeError
        return answer

    def artifacts(self, resolved: Resolved, bounds: Bounds) -> Remote:
        """The files below mlflow-artifacts:/…, which the server hands out itself."""
        root = urlsplit(resolved.root)
        if root.hostname not in (None, self._host):
            raise faults.failed(resolved.uri, f"its artifacts are at another server, {root.hostname}")
        path = root.path.strip("/")
        uri = resolved.uri

        def listed() -> tuple[RemoteFile, ...]:
            return tuple(self._below(path, uri, bounds))

        files, directory = faults.patient(listed, uri), True
        if not files:
            folder, _, name = path.rpartition("/")
            page = faults.patient(lambda: self._page(folder), uri)
            sizes = {str(item["path"]).rpartition("/")[2]: _size(item) for item in page}
            if name in sizes:
                files, directory = (self._file(name, self._key(path), sizes[name]),), False
        if not files:
            raise faults.missing(uri, "the server lists no artifact there")
        return Remote(uri, resolved.title, files, directory, self._http, f"mlflow {self.base}", resolved.facts)

    def _below(self, root: str, uri: str, bounds: Bounds) -> Iterator[RemoteFile]:
        total = count = 0
        pending = [("", 0)]
        while pending:
            folder, depth = pending.pop()
            at = f"{root}/{folder}".rstrip("/")
            for item in self._page(at):
                name = str(item["path"]).rpartition("/")[2]
                path = f"{folder}/{name}" if folder else name
                count += 1
                if count > bounds.entries or depth > _DEPTH:
                    raise faults.too_large(uri, bounds, entries=True)
                if item.get("is_dir"):
                    pending.append((path, depth + 1))
                    continue
                size = _size(item)
                total += size or 0
                if total > bounds.total:
                    raise faults.too_large(uri, bounds)
                yield self._file(path, self._key(f"{root}/{path}"), size)

    def _file(self, path: str, key: str, size: int | None) -> RemoteFile:
        """The file; of a large one the server is asked for a validator, so that it is fetched once."""
        file = RemoteFile(path, key, size)
        if size is not None and size < _LARGE:
            return file
        seen = self._http.look(key, path)
        return seen if seen.size == size else file

    def _page(self, path: str) -> list[Any]:
        page = self._http.json(f"{self._url}{_PROXY}", {"path": path})
        return list(page.get("files", ())) if isinstance(page, dict) else []

    def _key(self, path: str) -> str:
        return f"{self._url}{_PROXY}/{quote(path)}"


def _size(item: Mapping[str, Any]) -> int | None:
    """Bytes of a file. Raises ValueError, TypeError."""
    told = item.get("file_size")
    if told is None:
        return None
    size = int(told)
    if size < 0:
        raise ValueError(size)
    return size


def _form(location: str) -> UsageError:
    forms = "models:/NAME/VERSION, models:/NAME/latest, models:/NAME@ALIAS, models:/m-ID or runs:/RUN_ID/PATH"
    return UsageError("usage", f"{location} is no address of MLflow's.", f"Write {forms}.")
