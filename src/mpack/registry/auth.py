"""Answering a registry's challenge: basic authentication, or a bearer token from the realm that it names."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mpack.errors import EnvironmentFault
from mpack.redaction import hide
from mpack.registry.credentials import Credentials, DockerLogin, Login
from mpack.registry.reference import Reference
from mpack.registry.transport import retrying

if TYPE_CHECKING:
    import httpx

_PARAMETER = re.compile(r'([A-Za-z]+)="((?:[^"\\]|\\.)*)"|([A-Za-z]+)=([^",\s]+)')
CLIENT_ID = "mpack"


class Authenticator:
    """Holds the Authorization header of one registry. Credentials are looked up only when the registry asks."""

    def __init__(
        self, http: httpx.Client, reference: Reference, login: Login | None = None, actions: str = "pull"
    ) -> None:
        self._http = http
        self._reference = reference
        self.login = login or DockerLogin()
        self._actions = actions
        self._header = ""
        #: Whose credentials were used, for messages: no password is in it.
        self.identity = "without credentials"

    def headers(self) -> dict[str, str]:
        """The headers to add to a request."""
        return {"Authorization": self._header} if self._header else {}

    def answer(self, response: httpx.Response) -> str:
        """The Authorization header that a 401 asks for, kept for later requests; "" where there is nothing new to try.

        A token that has expired is answered with a challenge too, and is replaced.
        """
        if response.url.host != self._reference.api_host.rsplit(":", 1)[0].strip("[]"):
            return ""  # a redirect's target asks: the registry's credentials are none of its business
        header = ""
        credentials = self.login.credentials(self._reference)
        if credentials:
            self.identity = f"as user {credentials.user!r}" if credentials.user else "with an identity token"
        for challenge in response.headers.get_list("www-authenticate"):
            scheme, _, rest = challenge.partition(" ")
            parameters = {a or c: b or d for a, b, c, d in _PARAMETER.findall(rest)}
            if scheme.lower() == "bearer" and "realm" in parameters:
                header = "Bearer " + self._token(parameters, credentials)
                break
            if scheme.lower() == "basic" and credentials and credentials.password:
                header = basic(credentials)
                break
        if header in ("", response.request.headers.get("authorization", "")):
            return ""
        self._header = header
        return header

    def _token(self, parameters: dict[str, str], credentials: Credentials | None) -> str:
        realm = parameters["realm"]
        what = f"Asking for a token for {self._reference.name}"
        if not realm.startswith("https://") and not (realm.startswith("http://") and self._reference.is_loopback):
            raise self._failed(f"the registry names a token service without TLS ({realm})")
        wanted = f"repository:{self._reference.repository}:{self._actions}"
        scopes = merge_scopes([wanted, *parameters.get("scope", "").split()])
        query: dict[str, str | list[str]] = {"service": parameters.get("service", ""), "scope": scopes}

        def attempt() -> httpx.Response:
            if credentials and credentials.identity_token:
                form = {"grant_type": "refresh_token", "refresh_token": credentials.identity_token}
                # The token is in the body, which a redirect would carry along to any host.
                data = {**query, "scope": " ".join(scopes), **form, "client_id": CLIENT_ID}
                return self._http.post(realm, data=data, follow_redirects=False)
            headers = {"Authorization": basic(credentials)} if credentials and credentials.password else {}
            return self._http.get(realm, params=query, headers=headers)

        response = retrying(attempt, what)
        if response.status_code != 200:
            raise self._failed(f"{what} ended with HTTP {response.status_code}")
        try:
            body = response.json()
            token = str(body.get("token") or body["access_token"])
        except (ValueError, KeyError, AttributeError) as error:
            raise self._failed("the token service did not answer with a token") from error
        if not token.isascii() or not token.isprintable():
            raise self._failed("the token service answered with what cannot be a token")
        hide(token)
        return token

    def _failed(self, why: str) -> EnvironmentFault:
        return EnvironmentFault(
            "registry-failed",
            f"The registry {self._reference.registry} cannot be asked for {self._reference}: {why}.",
            f"{self.login.remedy(self._reference)}, or check the name.",
        )


def merge_scopes(scopes: Iterable[str]) -> list[str]:
    """Scopes "type:name:action,…", each resource once with all of its actions, in order."""
    merged: dict[str, dict[str, None]] = {}
    for scope in scopes:
        resource, _, actions = scope.rpartition(":")
        merged.setdefault(resource, {}).update(dict.fromkeys(actions.split(",")))
    return [f"{resource}:{','.join(actions)}" for resource, actions in merged.items()]


def basic(credentials: Credentials) -> str:
    """The value of a basic Authorization header."""
    value = base64.b64encode(f"{credentials.user}:{credentials.password}".encode()).decode()
    hide(value)
    return f"Basic {value}"
