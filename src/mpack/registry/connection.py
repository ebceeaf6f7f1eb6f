"""Requests to one registry: where its API is, its challenges, repetition. Threads may share a connection."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from mpack.errors import EnvironmentFault
from mpack.registry.auth import Authenticator
from mpack.registry.credentials import Login
from mpack.registry.faults import push_refused, refused
from mpack.registry.reference import Reference
from mpack.registry.transport import make_http, retrying, speaks_tls

if TYPE_CHECKING:
    import httpx

#: Bytes of an answer that is no blob and no manifest.
BODY_LIMIT = 64 << 10


class Connection:
    """A context manager. `actions` are the rights to ask a token service for: "pull" or "pull,push"; `login` has the
    credentials, else Docker's."""

    def __init__(
        self,
        reference: Reference,
        *,
        actions: str = "pull",
        login: Login | None = None,
        http: httpx.Client | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.reference = reference
        self.sleep = sleep
        self._http = http or make_http(reference.registry)
        self._auth = Authenticator(self._http, reference, login, actions)
        self._root = ""

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    @property
    def identity(self) -> str:
        """Whose credentials the registry got, for messages: "as user 'me'", "without credentials"."""
        return self._auth.identity

    @property
    def remedy(self) -> str:
        """What to do where the registry refuses the credentials, as the beginning of a sentence."""
        return self._auth.login.remedy(self.reference)

    def push_refused(self, response: httpx.Response, what: str) -> EnvironmentFault:
        """The error for an answer that ends a push."""
        return push_refused(self.reference, response, what, self.identity, self.remedy)

    def request(
        self,
        method: str,
        target: str,
        what: str,
        headers: Mapping[str, str] | None = None,
        *,
        content: bytes | None = None,
        stream: bool = False,
    ) -> httpx.Response:
        """As `once`, repeated with back-off; only for what may be asked twice.

        Raises EnvironmentFault registry-failed where no attempt got an answer.
        """
        return retrying(
            lambda: self.once(method, target, headers, content=content, stream=stream), what, sleep=self.sleep
        )

    def request_whole(
        self, target: str, what: str, headers: Mapping[str, str], limit: int
    ) -> tuple[httpx.Response, bytes]:
        """A GET and its whole body, both repeated where the connection breaks; reading ends beyond `limit` bytes."""
        body = b""

        def attempt() -> httpx.Response:
            nonlocal body
            body = b""
            response = self.once("GET", target, headers, stream=True)
            try:
                for block in response.iter_bytes():
                    body += block
                    if len(body) > limit:
                        break
            finally:
                response.close()
            return response

        return retrying(attempt, what, sleep=self.sleep), body

    def once(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None = None,
        *,
        content: bytes | Iterable[bytes] | None = None,
        timeout: float = 30.0,
        stream: bool = False,
    ) -> httpx.Response:
        """The answer; after a 401 asked once more, with what the challenge asks for.

        `target` is a path of the API or what a Location header said, `timeout` the seconds to wait for the answer. The
        beginning of the body is read, so that the connection serves again; with `stream` the caller reads and closes.
        Raises httpx.TransportError.
        """
        import httpx

        url, own = self._url(target)

        def send(authorization: Mapping[str, str]) -> httpx.Response:
            request = self._http.build_request(
                method,
                url,
                headers={**(headers or {}), **authorization},
                content=content,
                timeout=httpx.Timeout(30.0, connect=15.0, read=timeout),
            )
            response = self._http.send(request, stream=True)
            return response if stream else _read(response)

        response = send(self._auth.headers() if own else {})
        if response.status_code == 401 and own and (header := self._auth.answer(response)):
            response.close()
            response = send({"Authorization": header})
        return response

    def _url(self, target: str) -> tuple[httpx.URL, bool]:
        """The URL, and whether it is the registry's own, so that credentials may go there.

        A registry behind a proxy that ends TLS may name itself with http; it is asked as before all the same.
        """
        import httpx

        root = httpx.URL(self.root)
        try:
            url = root.join(target)
        except httpx.InvalidURL as error:
            raise refused(self.reference, "it names a place that is no URL") from error
        if url.host == root.host:
            if (url.scheme, root.scheme) == ("http", "https") and url.port in (None, root.port):
                url = url.copy_with(scheme="https", port=root.port)
            if (url.scheme, url.port) == (root.scheme, root.port):
                return url, True
        if url.scheme != "https" and not self.reference.is_loopback:
            raise refused(self.reference, f"it names a place without TLS ({url.scheme}://{url.netloc.decode()})")
        return url, False

    @property
    def root(self) -> str:
        """https://host; http://host only on loopback and only where TLS is not spoken at all."""
        if not self._root:
            self._root = self._find_root()
        return self._root

    def _find_root(self) -> str:
        import httpx

        secure = httpx.URL(f"https://{self.reference.api_host}")
        if not self.reference.is_loopback or speaks_tls(secure.host, secure.port or 443):
            return str(secure)
        return f"http://{self.reference.api_host}"


def _read(response: httpx.Response) -> httpx.Response:
    """The answer with the beginning of its body in memory."""
    import httpx

    data = b""
    try:
        for block in response.iter_bytes():
            data += block
            if len(data) > BODY_LIMIT:
                break
    finally:
        response.close()
    headers = httpx.Headers(response.headers)
    headers.pop("content-encoding", None)  # it is decoded
    return httpx.Response(response.status_code, headers=headers, content=data, request=response.request)
