"""A docker engine of this machine, asked over its socket; its client is looked for only when a program is needed."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from functools import cached_property
from typing import Any, BinaryIO

from mpack.engine.api import Answer, Api, local_socket
from mpack.engine.clients import programs
from mpack.engine.docker import Docker, loaded_names

_CHUNK = 1 << 20


class Hail:
    """The engine behind the socket that the client's settings point to, asked who it is before the answer is needed."""

    def __init__(self) -> None:
        path = local_socket()
        #: None where the settings point elsewhere, and without a program `docker`: no engine is set up then.
        self.api = None if path is None or not programs() else Api(path)
        self._asked: socket.socket | None = None
        if self.api is not None:
            with contextlib.suppress(OSError):
                self._asked = self.api.ask_version()

    def answer(self) -> tuple[str, str] | None:
        """Its version and platform; None if nothing answers. To be called once."""
        if self.api is None or self._asked is None:
            return None
        try:
            return self.api.told(self._asked)
        except (OSError, ValueError):
            return None

    def close(self) -> None:
        """Leaves it unanswered, if it still is."""
        if self._asked is not None:
            self._asked.close()


class LocalDocker(Docker):
    """Images are inspected, loaded, tagged and removed over the socket; the client runs, saves and builds."""

    def __init__(self, api: Api, server_version: str, platform: str) -> None:
        self.api = api
        object.__setattr__(self, "server_version", server_version)
        object.__setattr__(self, "platform", platform)

    @classmethod
    def reached(cls, hail: Hail | None = None) -> LocalDocker | None:
        """The engine that the client's settings point to; None if that is no socket here, or nothing answers there."""
        hail = hail or Hail()
        told = hail.answer()
        return cls(hail.api, *told) if hail.api is not None and told is not None else None

    @cached_property
    def _client(self) -> Docker:
        return Docker.by_client()

    @property
    def client(self) -> str:
        return self._client.client

    @property
    def client_version(self) -> str:
        return self._client.client_version

    @property
    def builder(self) -> str | None:
        return self._client.builder

    @property
    def builder_name(self) -> str:
        return self._client.builder_name

    def inspect(self, reference: str) -> dict[str, Any] | None:
        what = f"inspect the image {reference}"
        answer = self._ask(what, "GET", self.api.image(reference, "/json"))
        if answer.status == 404:
            return None
        found: dict[str, Any] = self._checked(what, answer).json()
        return found

    def load(self, archive: BinaryIO) -> list[str]:
        what = "load an image"
        pieces = iter(lambda: archive.read(_CHUNK), b"")
        answer = self._checked(what, self._ask(what, "POST", "/images/load", {"quiet": "1"}, pieces))
        lines = [json.loads(line) for line in answer.body.splitlines() if line.strip()]
        for line in lines:
            if "error" in line:
                raise self._failed(what, str(line["error"]))
        return loaded_names("".join(str(line.get("stream", "")) for line in lines))

    def tag(self, reference: str, name: str) -> None:
        what = f"give the image {reference} the name {name}"
        repository, _, tag = name.rpartition(":")
        query = {"repo": repository, "tag": tag} if "/" not in tag and repository else {"repo": name}
        self._checked(what, self._ask(what, "POST", self.api.image(reference, "/tag"), query))

    def remove(self, reference: str) -> None:
        what = f"remove the image {reference}"
        answer = self._ask(what, "DELETE", self.api.image(reference), {"force": "1"})
        if answer.status != 404:
            self._checked(what, answer)

    def remove_untagged(self, image_id: str) -> None:
        found = self.inspect(image_id)
        if found is not None and not found.get("RepoTags"):
            # One that a container uses is refused, and stays.
            self._ask(f"remove the image {image_id}", "DELETE", self.api.image(image_id))

    def images(self, label: str) -> list[str]:
        return self._listed({"filters": json.dumps({"label": [label]})})

    def chains(self) -> Iterator[tuple[str, ...]]:
        for image_id in self._listed({"all": "1"}):
            found = self.inspect(image_id)
            if found is not None:
                yield tuple(found["RootFS"].get("Layers") or ())

    def _listed(self, query: dict[str, str]) -> list[str]:
        what = "list its images"
        found = self._checked(what, self._ask(what, "GET", "/images/json", query)).json()
        return list(dict.fromkeys(str(item["Id"]) for item in found))

    def _ask(
        self,
        what: str,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        body: Iterator[bytes] | None = None,
    ) -> Answer:
        try:
            return self.api.ask(method, path, query, body=body)
        except OSError as error:
            raise self._failed(
                what, f"Cannot connect to the Docker daemon at unix://{self.api.path}: {error}"
            ) from error

    def _checked(self, what: str, answer: Answer) -> Answer:
        if not answer.ok:
            raise self._failed(what, answer.message)
        return answer
