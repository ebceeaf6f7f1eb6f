"""The public keys that tokens are signed with: a JWKS in a file or at an https URL, kept and fetched anew.

A request never waits for it longer than _WAIT: fetching is a thread's work. Keys that are there stay in use while the
URL cannot be reached, for _KEEP at most. A key that is not among them makes the set be read again, once in _PAUSE.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jwt import algorithms

from mpack_runtime.errors import SettingsError

#: Seconds: after which keys are read anew, between attempts, that keys are used without a good answer, that a
#: request may wait for keys, that an attempt may take.
_FRESH, _PAUSE, _KEEP, _WAIT, _ATTEMPT = 300.0, 30.0, 24 * 3600.0, 1.0, 10.0
_BYTES = 1 << 20
_KEYS = 100
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA"}
_READERS: dict[str, Any] = {
    "RSA": algorithms.RSAAlgorithm,
    "EC": algorithms.ECAlgorithm,
    "OKP": algorithms.OKPAlgorithm,
}
#: Every algorithm that there is here: asymmetric ones only, so that a public key is never taken for a secret.
ALGORITHMS = frozenset((*_RSA, *_CURVES.values()))


class NoKeys(Exception):
    """There are no keys now: the set could not be read, or not for too long."""


class Key(NamedTuple):
    """A public key, and the algorithms that it may be used with."""

    id: str
    algorithms: frozenset[str]
    public: Any


class Jwks:
    """The keys of `source`, a path or an https URL. Safe to use from several threads."""

    def __init__(self, source: str) -> None:
        """Raises SettingsError where `source` is a file that holds no keys; a URL may come to life later."""
        self._source = source
        self._changed = threading.Condition()
        self._keys: tuple[Key, ...] = ()
        self._read = self._asked = -float("inf")
        self._busy = False
        if not is_url(source):
            try:
                self._keys = parse(Path(source).read_bytes())
            except (OSError, ValueError) as error:
                raise SettingsError(f"MPACK_AUTH_JWKS is {source!r}, which cannot be used: {error}.") from None
            self._read = self._asked = time.monotonic()
        else:
            with self._changed:
                self._ask(time.monotonic())

    def find(self, key_id: str | None, algorithm: str) -> Key | None:
        """The key of that id, or the only one for the algorithm where a token names none. Raises NoKeys."""
        with self._changed:
            now = self._look()
            found = self._match(key_id, algorithm)
            if found is None and key_id is not None:
                self._ask(now)
                self._await()
                found = self._match(key_id, algorithm)
            return found

    def has(self, key: Key) -> bool:
        """True while a key that was found is one of the set's. Raises NoKeys."""
        with self._changed:
            self._look()
            return any(key is one for one in self._keys)

    def _look(self) -> float:
        """Has old keys read anew. Raises NoKeys where there are none that may still be used."""
        now = time.monotonic()
        if now - self._read > _FRESH:
            self._ask(now)
        if now - self._read > _KEEP:
            self._await()
            if time.monotonic() - self._read > _KEEP:
                raise NoKeys
        return now

    def _match(self, key_id: str | None, algorithm: str) -> Key | None:
        fits = [key for key in self._keys if algorithm in key.algorithms and key_id in (None, key.id)]
        return fits[0] if len(fits) == 1 or (fits and key_id is not None) else None

    def _ask(self, now: float) -> None:
        """Has the keys read anew by a thread, unless that was tried a moment ago."""
        if self._busy or now - self._asked < _PAUSE:
            return
        self._busy, self._asked = True, now
        threading.Thread(target=self._refresh, name="jwks", daemon=True).start()

    def _await(self) -> None:
        """Waits for such a thread; however many wait, it is for _WAIT after the thread began."""
        self._changed.wait_for(lambda: not self._busy, max(0.0, self._asked + _WAIT - time.monotonic()))

    def _refresh(self) -> None:
        keys: tuple[Key, ...] = ()
        try:
            keys = parse(_get(self._source) if is_url(self._source) else Path(self._source).read_bytes())
        except Exception as error:  # whatever a network or a server does: the keys that are there stay
            print(f"MPACK_AUTH_JWKS: no keys from {self._source}: {error}.", file=sys.stderr, flush=True)
        with self._changed:
            self._busy = False
            if keys:
                self._keys, self._read = keys, time.monotonic()
            self._changed.notify_all()


def is_url(source: str) -> bool:
    """True for an address, false for a path."""
    return "://" in source


def parse(text: bytes) -> tuple[Key, ...]:
    """The keys of a JWKS that verify signatures. Raises ValueError where there is none."""
    try:
        document = json.loads(text)
        listed: Iterable[Any] = document["keys"]
        keys = tuple(key for item in list(listed)[:_KEYS] if (key := _key(item)) is not None)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("it is no JSON Web Key Set") from None
    if not keys:
        raise ValueError("no key in it is for signatures by RSA (2048 bits or more), ECDSA or Ed25519")
    return keys


def _key(item: Mapping[str, Any]) -> Key | None:
    """A key that may verify signatures; None for one that may not, is weak, secret or of another kind."""
    if not isinstance(item, Mapping) or item.get("use", "sig") != "sig" or "d" in item:
        return None
    if "verify" not in (item.get("key_ops") or ["verify"]):
        return None
    kind = item.get("kty")
    allowed = set(_RSA) if kind == "RSA" else {_CURVES.get(str(item.get("crv")), "")}
    if "alg" in item:
        allowed &= {str(item["alg"])}
    if kind not in _READERS or not allowed & ALGORITHMS:
        return None
    try:
        public = _READERS[kind].from_jwk(dict(item))
    except Exception:  # whatever the numbers of a key are: that one is not used
        return None
    if kind == "RSA" and public.key_size < 2048:
        return None
    return Key(str(item.get("kid", "")), frozenset(allowed & ALGORITHMS), public)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _get(url: str) -> bytes:
    """What is there; raises OSError or ValueError. No redirects: they could lead to where anybody may write."""
    end = time.monotonic() + _ATTEMPT
    opener = urllib.request.build_opener(_NoRedirects)
    request = urllib.request.Request(url, headers={"Accept": "application/json"})  # noqa: S310 - config checks it
    body = b""
    with opener.open(request, timeout=_ATTEMPT / 2) as answer:
        while part := answer.read1(1 << 16):
            body += part
            if len(body) > _BYTES or time.monotonic() > end:
                raise ValueError(f"it is larger than {_BYTES} bytes, or takes longer than {_ATTEMPT:g} seconds")
    return body
