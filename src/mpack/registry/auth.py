"""Answering a registry's challenge: basic authentication, or a bearer token from the realm that it names."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mpack.errors import EnvironmentFault
from mpack.registry.credentials import Credentials, find_credentials
from mpack.registry.reference import Reference
from mpack.registry.transport import retrying

if TYPE_CHECKING:
    import httpx

_PARAMETER = re.compile(r'([A-Za-z]+)="((?:[^"\\]|\\.)*)"|([A-Za-z]+)=([^",\s]+)')
CLIENT_ID = "mpack"


class Authenticator:
    """Holds the Authorization header of one registry. Credentials are looked up only when the registry asks."""

    def __init__(self, http: httpx.Client, reference: Reference, config_dir: Path | None = None) -> None:
        self._http = http
        self._reference = reference
        self._config_dir = config_dir
        self._header = ""

    def headers(self) -> dict[str, str]:
        """The headers to add to a request."""
        return {"Authorization": self._header} if self._header else {}

    def answer(self, response: httpx.Response) -> bool:
        """Prepares the header that a 401 asks for; False where there is nothing new to try."""
        if response.url.host != self._reference.api_host.rsplit(":", 1)[0].strip("[]"):
            return False  # a redirect's target asks: the registry's credentials are none of its business
        before = self._header
        credentials = find_credentials(self._reference.credential_key, self._config_dir)
        for challenge in response.headers.get_list("www-authenticate"):
            scheme, _, rest = challenge.partition(" ")
            parameters = {a or c: b or d for a, b, c, d in _PARAMETER.findall(rest)}
            if scheme.lower() == "bearer" and "realm" in parameters:
                self._header = "Bearer " + self._token(parameters, credentials)
                break
            if scheme.lower() == "basic" and credentials and credentials.password:
                self._header = basic(credentials)
                break
        return self._header not in ("", before)

    def _token(self, parameters: dict[str, str], credentials: Credentials | None) -> str:
        realm = parameters["realm"]
        what = f"Asking for a token for {self._reference.name}"
        if not realm.startswith("https://") and not (realm.startswith("http://") and self._reference.is_loopback):
            raise self._failed(f"the registry names a token service without TLS ({realm})")
        scope = parameters.get("scope") or f"repository:{self._reference.repository}:pull"
        query = {"service": parameters.get("service", ""), "scope": scope}

        def attempt() -> httpx.Response:
            if credentials and credentials.identity_token:
                form = {"grant_type": "refresh_token", "refresh_token": credentials.identity_token}
                return self._http.post(realm, data={**query, **form, "client_id": CLIENT_ID})
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
        return token

    def _failed(self, why: str) -> EnvironmentFault:
        return EnvironmentFault(
            "registry-failed",
            f"The registry {self._reference.registry} cannot be asked for {self._reference}: {why}.",
            f"Run `docker login {self._reference.registry}`, or check the name.",
        )


def basic(credentials: Credentials) -> str:
    """The value of a basic Authorization header."""
    return "Basic " + base64.b64encode(f"{credentials.user}:{credentials.password}".encode()).decode()
