"""HTTP towards a registry: TLS as on the host, retries with back-off, redirects that never carry credentials along."""

from __future__ import annotations

import random
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpack.errors import EnvironmentFault

if TYPE_CHECKING:
    import httpx

ATTEMPTS = 5
#: Seconds: the first pause, doubled each time; and the longest pause that a server may ask for.
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
RETRIED_STATUS = frozenset({408, 429, 500, 502, 503, 504})
#: Where distributions keep the host's CA bundle: read in addition to SSL_CERT_FILE, which would else replace it.
HOST_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
DOCKER_CERTS = Path("/etc/docker/certs.d")


def make_http(host: str, timeout: float = 30.0) -> httpx.Client:
    """An HTTP client with the host's proxies and CA bundles, and Docker's certs.d/<host>/*.crt.

    Redirects are followed; httpx takes Authorization off when another origin is meant.
    """
    import httpx

    from mpack import __version__

    return httpx.Client(
        verify=_HostContext.of(host),
        timeout=httpx.Timeout(timeout, connect=15.0),
        follow_redirects=True,
        trust_env=True,
        headers={"User-Agent": f"mpack/{__version__}", "Accept-Encoding": "identity"},
    )


def retrying(
    attempt: Callable[[], httpx.Response], what: str, *, sleep: Callable[[float], None] = time.sleep
) -> httpx.Response:
    """The first answer whose status is not worth a retry; the last one after ATTEMPTS.

    Raises EnvironmentFault registry-failed, saying what was tried how often, when no attempt got an answer.
    """
    import httpx

    for number in range(1, ATTEMPTS + 1):
        last = number == ATTEMPTS
        try:
            response = attempt()
        except httpx.TransportError as error:
            if last or not is_transient(error):
                raise unreachable(what, error, number) from error
            sleep(pause(number))
            continue
        if response.status_code not in RETRIED_STATUS or last:
            return response
        wait = pause(number, response.headers)
        response.close()
        sleep(wait)
    raise AssertionError("unreachable")


def pause(number: int, headers: Mapping[str, str] | None = None) -> float:
    """Seconds to wait after the `number`-th failed attempt; Retry-After in seconds is obeyed up to LONGEST_PAUSE."""
    asked = (headers or {}).get("retry-after", "")
    if asked.isdigit():
        return min(float(asked), LONGEST_PAUSE)
    return float(FIRST_PAUSE * 2 ** (number - 1) * random.uniform(0.8, 1.2))  # noqa: S311 (jitter, not a secret)


def is_transient(error: httpx.TransportError) -> bool:
    """False for what a retry cannot mend: an untrusted certificate, no such host, nothing that listens."""
    import httpx

    text = str(error)
    if isinstance(error, (httpx.UnsupportedProtocol, httpx.ProxyError, httpx.ConnectTimeout)):
        return False
    return not any(mark in text for mark in ("CERTIFICATE_VERIFY_FAILED", "name resolution", "not known", "refused"))


def unreachable(what: str, error: Exception, attempts: int) -> EnvironmentFault:
    """registry-failed for a request that got no answer."""
    text = str(error) or type(error).__name__
    tries = "once" if attempts == 1 else f"{attempts} times"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        hint = "Name the registry's CA in SSL_CERT_FILE, or put it into /etc/docker/certs.d/<registry>/ca.crt."
    else:
        hint = "Check the network, HTTPS_PROXY and NO_PROXY, and the registry's name."
    return EnvironmentFault("registry-failed", f"{what} failed: tried {tries}, last: {text.rstrip('.')}.", hint)


def speaks_tls(host: str, port: int, timeout: float = 5.0) -> bool:
    """Whether what listens there answers a TLS handshake, whoever it is: nothing else is sent to it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), timeout=timeout) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return True
    except OSError:  # ssl.SSLError is one
        return False


class _HostContext(ssl.SSLContext):
    """Trusts what the host trusts. The bundles take 0.1 s to read, so that is done when TLS is first spoken."""

    _host: str
    _lock: threading.Lock
    _read: bool

    @classmethod
    def of(cls, host: str) -> _HostContext:
        """For a registry, by its "host:port"."""
        context = cls(ssl.PROTOCOL_TLS_CLIENT)
        if sys.version_info >= (3, 13):  # as ssl.create_default_context has it
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
        context._host, context._lock, context._read = host, threading.Lock(), False
        return context

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        self._trust()
        return super().wrap_socket(*arguments, **options)

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        self._trust()
        return super().wrap_bio(*arguments, **options)

    def _trust(self) -> None:
        with self._lock:
            if self._read:
                return
            self.load_default_certs()  # reads SSL_CERT_FILE and SSL_CERT_DIR
            known = ssl.get_default_verify_paths().cafile
            for bundle in [Path(item) for item in HOST_BUNDLES] + sorted((DOCKER_CERTS / self._host).glob("*.crt")):
                try:
                    if known is None or not bundle.samefile(known):
                        self.load_verify_locations(cafile=bundle)
                except (OSError, ssl.SSLError):
                    continue  # absent or unreadable: what is missing shows as a verification error that names the CA
            if not self.cert_store_stats()["x509_ca"]:
                import certifi

                self.load_verify_locations(cafile=certifi.where())
            self._read = True
