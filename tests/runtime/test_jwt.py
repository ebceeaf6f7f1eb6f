"""Signed tokens at the real server: real keys, a real JWKS server over TLS, and tokens that somebody forged."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import ipaddress
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from mpack_runtime.config import AuthSettings, JwtSettings, Settings
from mpack_runtime.errors import SettingsError
from mpack_runtime.rest import jwks
from mpack_runtime.rest.access import Access

ISSUER, AUDIENCE = "https://issuer.example/", "wine"
RSA = rsa.generate_private_key(65537, 2048)
OTHER = rsa.generate_private_key(65537, 2048)
WEAK = rsa.generate_private_key(65537, 1024)  # refused: too short
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
GOOD = {"data": [[1.0, "a", 1000]]}


def public(key: Any, kid: str, **more: Any) -> dict[str, Any]:
    """A key's entry in a JWKS."""
    reader = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm if key is EC else OKPAlgorithm
    return {**json.loads(reader.to_jwk(key.public_key())), "kid": kid, **more}


def key_set(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


KEYS = key_set(public(RSA, "rsa"), public(EC, "ec"), public(ED, "ed"), public(WEAK, "weak"))


def token(key: Any = RSA, algorithm: str = "RS256", kid: str | None = "rsa", head: Any = None, **claims: Any) -> str:
    """A token; claims that are None are left out."""
    now = int(time.time())
    all_claims = {"iss": ISSUER, "aud": AUDIENCE, "exp": now + 60, "sub": "me", **claims}
    payload = {name: value for name, value in all_claims.items() if value is not None}
    return jwt.encode(payload, key, algorithm, headers={**({"kid": kid} if kid else {}), **(head or {})})


def forged(header: dict[str, Any], sign: Callable[[bytes], bytes], claims: bytes | None = None) -> str:
    """A token that no honest library makes."""
    now = int(time.time())
    body = claims or json.dumps({"iss": ISSUER, "aud": AUDIENCE, "exp": now + 60}).encode()
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (json.dumps(header).encode(), body))
    return (signed + b"." + base64.urlsafe_b64encode(sign(signed)).rstrip(b"=")).decode()


@pytest.fixture
def access(tmp_path: Path) -> Access:
    """Keys of a file."""
    path = tmp_path / "jwks.json"
    path.write_bytes(KEYS)
    return Access(AuthSettings(jwt=JwtSettings(str(path), ISSUER, (AUDIENCE, "beer"))))


def refused(access: Access, given: str) -> str:
    """Why; "" for a token that lets in."""
    refusal = access.refusal(f"Bearer {given}")
    return refusal.message if refusal else ""


def test_honest_tokens(access: Access) -> None:
    """Every kind of key with the algorithms that are its; a little late and a little early are in time."""
    now = int(time.time())
    for algorithm in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"):
        assert refused(access, token(algorithm=algorithm)) == ""
    assert refused(access, token(EC, "ES256", "ec")) == ""
    assert refused(access, token(ED, "EdDSA", "ed")) == ""
    assert refused(access, token(EC, "ES256", None)) == "", "the only key for the algorithm needs no name"
    assert refused(access, token(exp=now - 10, nbf=now + 10)) == ""
    assert refused(access, token(aud=["x", "beer"])) == ""


PEM = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def hostile() -> dict[str, tuple[str, str]]:
    """Name -> a token and what is said of it."""
    now = int(time.time())
    hs256 = lambda secret: lambda signed: hmac.new(secret, signed, hashlib.sha256).digest()  # noqa: E731
    kind = "algorithm is not one of those"
    unread = "cannot be read"
    own = public(OTHER, "rsa")
    head = {"alg": "RS256", "kid": "rsa"}
    good = token().rpartition(".")[0]
    return {
        "none": (forged({"alg": "none", "kid": "rsa"}, lambda _: b"x"), kind),
        "none without signature": (token().rpartition(".")[0] + ".", "no signed JSON Web Token"),
        "hs256 with the public key": (forged({"alg": "HS256", "kid": "rsa"}, hs256(PEM)), kind),
        "hs256 with the key's JSON": (forged({"alg": "HS256", "kid": "rsa"}, hs256(KEYS)), kind),
        "another algorithm of the curve": (forged({"alg": "ES256", "kid": "rsa"}, lambda _: b"x" * 64), "no key"),
        "a list": (forged({"alg": ["RS256"], "kid": "rsa"}, lambda _: b"x"), unread),
        "crit": (token(head={"crit": ["exp"]}), "The token is refused"),
        "its own key": (token(OTHER, head={"jwk": own, "jku": "https://evil.example/jwks"}), "signature is wrong"),
        "another's key": (token(OTHER), "signature is wrong"),
        "unknown key": (token(OTHER, kid="other"), "no key"),
        "kid of another key": (token(RSA, kid="ec"), "no key"),
        "a weak key's": (token(EC, "ES256", kid="weak"), "no key"),
        "expired": (token(exp=now - 60), "has expired"),
        "no exp": (token(exp=None), "lacks exp, iss or aud"),
        "not yet": (token(nbf=now + 120), "not valid yet"),
        "issued tomorrow": (token(iat=now + 86400), "not valid yet"),
        "another audience": (token(aud="other"), "another audience"),
        "no audience": (token(aud=None), "lacks exp, iss or aud"),
        "another issuer": (token(iss="https://evil.example/"), "another issuer"),
        "no issuer": (token(iss=None), "lacks exp, iss or aud"),
        "exp is endless": (forged(head, _rs256, b'{"iss":"%s","aud":"wine","exp":1e999}' % ISSUER.encode()), unread),
        "exp is text": (token(exp="tomorrow"), unread),
        "deep": (forged(head, _rs256, b"[" * 2000 + b"]" * 2000), unread),
        "no object": (forged(head, _rs256, b"[]"), unread),
        "empty signature": (good + ".AAAA", "signature is wrong"),
        "huge": (token(x="a" * 10_000), "no signed JSON Web Token"),
        "not base64": ("a.b.c", unread),
        "blanks": ("a b c", "no signed JSON Web Token"),
        "not ASCII": ("\xff.\xff.\xff", "no signed JSON Web Token"),
    }


def _rs256(signed: bytes) -> bytes:
    return bytes(RSAAlgorithm(RSAAlgorithm.SHA256).sign(signed, RSA))


def test_a_token_that_was_good_expires(access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered of it ends with it."""
    given, now = token(), time.time()
    assert refused(access, given) == refused(access, given) == ""
    monkeypatch.setattr("mpack_runtime.rest.access._REMEMBERED", 2)
    assert [refused(access, token(jti=str(number))) for number in range(5)] == [""] * 5
    assert refused(access, given) == ""
    monkeypatch.setattr("time.time", lambda: now + 95)
    monkeypatch.setattr("jwt.api_jwt.datetime", _Later)
    assert "has expired" in refused(access, given)


class _Later(datetime.datetime):
    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return datetime.datetime.now(tz) + datetime.timedelta(seconds=95)


def test_hostile_tokens(access: Access) -> None:
    """None of them lets in, none is an error of ours, and each is told what is wrong with it."""
    for name, (given, words) in hostile().items():
        assert words in refused(access, given), name
    for header in ("", "Bearer", f"Basic {token()}", token()):
        refusal = access.refusal(header)
        assert refusal is not None and not refusal.invalid and "wants a token" in refusal.message


@pytest.mark.parametrize(
    ("text", "kids"),
    [
        (KEYS, ["rsa", "ec", "ed"]),
        (key_set(public(RSA, "a", use="enc"), public(EC, "b", alg="ES256", key_ops=["verify"])), ["b"]),
        (key_set({"kty": "oct", "k": "c2VjcmV0", "kid": "s"}, public(RSA, "a")), ["a"]),
        (key_set({**public(RSA, "a"), "d": "AQAB"}, {"kty": "RSA", "n": "!", "e": "AQAB"}, public(EC, "c")), ["c"]),
        (key_set(public(RSA, "a", alg="HS256"), public(EC, "b", crv="P-999"), public(ED, "c")), ["c"]),
        (key_set(public(RSA, "a", alg=["RS256"]), public(EC, "b", key_ops=["sign"]), public(ED, "c")), ["c"]),
        (key_set(public(WEAK, "weak")), None),
        (b"[]", None),
        (b'{"keys": 5}', None),
        (b"\xff", None),
        (b'{"keys": [5, null]}', None),
    ],
)
def test_keys_of_a_set(text: bytes, kids: list[str] | None) -> None:
    """Only public keys for signatures, strong enough; a set without one is an error."""
    if kids is None:
        with pytest.raises(ValueError, match=r"it is no JSON Web Key Set|no key in it"):
            jwks.parse(text)
    else:
        assert [key.id for key in jwks.parse(text)] == kids


class Issuer:
    """A JWKS server; what it says can be changed while it runs."""

    def __init__(self, directory: Path | None = None) -> None:
        issuer = self
        self.keys, self.status, self.asked = KEYS, 200, 0
        self.hold = threading.Event()
        self.hold.set()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                issuer.hold.wait(20)
                self.send_response(issuer.status)
                if issuer.status == 302:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", str(len(issuer.keys)))
                self.end_headers()
                self.wfile.write(issuer.keys)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if directory is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate(directory))
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        scheme = "https" if directory else "http"
        self.url = f"{scheme}://127.0.0.1:{self.server.server_address[1]}/jwks"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.hold.set()
        self.server.shutdown()
        self.server.server_close()


def certificate(directory: Path) -> Path:
    """A file with a key and its own certificate for 127.0.0.1."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder(name, name, EC.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(EC, hashes.SHA256())
    )
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path = directory / "issuer.pem"
    key = EC.private_bytes(serialization.Encoding.PEM, form, plain)
    path.write_bytes(key + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    """An issuer on loopback without TLS."""
    made = Issuer()
    yield made
    made.close()


def of(url: str) -> Access:
    return Access(AuthSettings(jwt=JwtSettings(url, ISSUER, (AUDIENCE,))))


def test_new_keys_are_fetched_once_in_a_while(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is not known has the set read again, at once the first time and then only after the pause."""
    access = of(issuer.url)
    assert refused(access, token()) == "" and issuer.asked == 1
    monkeypatch.setattr(jwks, "_PAUSE", 0.0)
    first = token()
    assert refused(access, first) == ""
    issuer.keys = key_set(public(OTHER, "new"))
    assert refused(access, token(OTHER, kid="new")) == "" and issuer.asked == 2
    for old in (token(), first):
        assert "no key" in refused(access, old), "a key that was taken back is gone, also for who was let in before"
    asked = issuer.asked
    monkeypatch.setattr(jwks, "_PAUSE", 1000.0)
    for number in range(50):
        assert "no key" in refused(access, token(OTHER, kid=f"{number}"))
    assert issuer.asked == asked


def test_a_dead_issuer_keeps_its_keys_for_a_time(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old keys serve while the URL answers nonsense; then it is 503, until it is well again."""
    access = of(issuer.url)
    assert refused(access, token()) == ""
    monkeypatch.setattr(jwks, "_PAUSE", 0.0)
    monkeypatch.setattr(jwks, "_FRESH", 0.0)
    for issuer.status, issuer.keys in ((500, KEYS), (302, KEYS), (200, b"<html>"), (200, b" " * (2 << 20))):
        asked = issuer.asked
        assert refused(access, token()) == ""
        end = time.monotonic() + 10
        while issuer.asked == asked:
            assert refused(access, token()) == "" and time.monotonic() < end
    monkeypatch.setattr(jwks, "_KEEP", 0.0)
    refusal = access.refusal(f"Bearer {token()}")
    assert refusal is not None and refusal.status == 503
    issuer.status, issuer.keys = 200, KEYS
    monkeypatch.setattr(jwks, "_KEEP", 1000.0)
    end = time.monotonic() + 10
    while refused(access, token()):
        assert time.monotonic() < end


def test_an_issuer_that_hangs_holds_nobody_up(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait of the bound in all, however many ask; who has a known key never waits."""
    access = of(issuer.url)
    assert refused(access, token()) == ""
    monkeypatch.setattr(jwks, "_PAUSE", 0.0)
    monkeypatch.setattr(jwks, "_WAIT", 0.5)
    issuer.hold.clear()
    begun = time.monotonic()
    for number in range(20):
        assert "no key" in refused(access, token(OTHER, kid=f"{number}"))
        assert refused(access, token()) == ""
    assert time.monotonic() - begun < 2


def test_an_issuer_that_comes_later(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service starts without its keys, says 503, and takes tokens once they are there."""
    issuer.status = 500
    access = of(issuer.url)
    refusal = access.refusal(f"Bearer {token()}")
    assert refusal is not None and refusal.status == 503
    issuer.status = 200
    monkeypatch.setattr(jwks, "_PAUSE", 0.0)
    assert refused(access, token()) == ""


def test_signed_tokens_at_the_server(
    tmp_path: Path, model_json: Path, start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys over TLS; the service's own token beside them; 401 tells the client why; no token is in a log."""
    issuer = Issuer(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "issuer.pem"))
    given = {"auth_jwks": issuer.url, "auth_issuer": ISSUER, "auth_audience": f"{AUDIENCE}, beer"}
    try:
        server = start(model_json, workers=2, auth_token="s3cret", **given)
        invoke = lambda given: server.invoke(GOOD, Authorization=f"Bearer {given}")  # noqa: E731
        assert invoke(token()).status_code == 200
        assert invoke("s3cret").status_code == 200
        late = invoke(token(exp=1))
        assert late.status_code == 401 and late.json() == {"message": "The token is refused: it has expired."}
        assert late.headers["WWW-Authenticate"] == (
            'Bearer realm="mpack", error="invalid_token", error_description="The token is refused: it has expired."'
        )
        assert server.invoke(GOOD).headers["WWW-Authenticate"] == 'Bearer realm="mpack"'
        for name, (hostile_token, _) in hostile().items():
            if hostile_token.isascii():
                assert invoke(hostile_token).status_code in (400, 401, 431), name
        assert server.client.get("/readyz").status_code == 200
        assert server.client.get("/metrics").status_code == 401
        assert server.client.get("/metrics", headers={"Authorization": f"Bearer {token()}"}).status_code == 200
        server.stop()
        assert "eyJ" not in server.stdout() + server.stderr()
    finally:
        issuer.close()


ALL = {"AUTH_JWKS": "/x", "AUTH_ISSUER": ISSUER, "AUTH_AUDIENCE": AUDIENCE}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"AUTH_ISSUER": ""}, "belong together"),
        ({"AUTH_AUDIENCE": " , "}, "belong together"),
        ({"AUTH_JWKS": ""}, "belong together"),
        ({"AUTH_JWKS": "http://issuer.example/jwks"}, "must be a file or an https URL"),
        ({"AUTH_JWKS": "http://localhost.evil.example/jwks"}, "must be a file or an https URL"),
        ({"AUTH_JWKS": "http://localhost:80@evil.example/jwks"}, "must be a file or an https URL"),
        ({"AUTH_JWKS": "file:///x"}, "must be a file or an https URL"),
        ({"AUTH_HEALTH": "true"}, "needs MPACK_AUTH_TOKEN"),
    ],
)
def test_wrong_settings(changes: dict[str, str], words: str) -> None:
    """What would let in too many, or nobody, is refused at the start."""
    with pytest.raises(SettingsError, match=words):
        Settings.from_env({f"MPACK_{name}": value for name, value in {**ALL, **changes}.items()})


def test_what_must_be_there(model_json: Path, start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without keys ends the container with the reason; so does an image without PyJWT."""
    given = {"auth_jwks": "/dev/null", "auth_issuer": ISSUER, "auth_audience": AUDIENCE}
    server = start(model_json, wait=False, **given)
    assert server.process.wait(30) == 1
    assert "MPACK_AUTH_JWKS is '/dev/null', which cannot be used" in server.stderr().splitlines()[-1]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="build it with -a jwt=true"):
        Settings.from_env({f"MPACK_{name}": value for name, value in ALL.items()})
