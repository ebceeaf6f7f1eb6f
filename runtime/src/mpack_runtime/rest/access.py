"""Whether a request may be answered, by its Authorization header: the service's token, or one that somebody signed."""

from __future__ import annotations

import hmac
import re
import time
from typing import TYPE_CHECKING, Any

from mpack_runtime.config import AuthSettings, JwtSettings

if TYPE_CHECKING:
    from mpack_runtime.rest.jwks import Jwks, Key

WANTED = "This service wants a token: send it as Authorization: Bearer TOKEN."
UNREACHABLE = "This service cannot check tokens now: it has not got the keys; try again in a moment."
#: Seconds that the clocks of who signs and who checks may differ.
LEEWAY = 30
_FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_LONGEST = 8192
_REMEMBERED = 1000


class Refusal:
    """`status` 401 or 503; `invalid`: a token came, and is no good."""

    def __init__(self, message: str, status: int = 401, *, invalid: bool = False) -> None:
        self.message, self.status, self.invalid = message, status, invalid


class Access:
    """Who may ask. Whatever carries the requests can ask it."""

    def __init__(self, settings: AuthSettings) -> None:
        """Raises SettingsError where the file of MPACK_AUTH_JWKS holds no keys."""
        self._token = settings.token.encode("ascii")
        self._signed = Signed(settings.jwt) if settings.jwt is not None else None

    def refusal(self, authorization: str) -> Refusal | None:
        """None for a header that lets in."""
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            return Refusal(WANTED)
        if self._token and hmac.compare_digest(token.encode("latin-1", "replace"), self._token):
            return None
        return self._signed.refusal(token) if self._signed is not None else Refusal(WANTED)


class Signed:
    """JSON Web Tokens of one issuer for one of some audiences."""

    def __init__(self, settings: JwtSettings) -> None:
        """Raises SettingsError where the file of MPACK_AUTH_JWKS holds no keys."""
        from mpack_runtime.rest.jwks import Jwks

        self._settings = settings
        self._keys: Jwks = Jwks(settings.jwks)
        #: Tokens that held: until when (seconds since the epoch), and by which key (another one once it is read anew).
        self._held: dict[str, tuple[float, Key]] = {}

    def refusal(self, token: str) -> Refusal | None:
        """None for a token that holds."""
        from mpack_runtime.rest.jwks import NoKeys

        try:
            reason = None if self._holds(token) else self._fault(token)
        except NoKeys:
            return Refusal(UNREACHABLE, 503)
        return Refusal(f"The token is refused: {reason}.", invalid=True) if reason else None

    def _holds(self, token: str) -> bool:
        """True for a token that held a moment ago: checking a signature takes as long as a small prediction."""
        until, key = self._held.get(token, (0.0, None))
        return key is not None and time.time() < until and self._keys.has(key)

    def _fault(self, token: str) -> str | None:
        """What is wrong with a token, as a clause. Raises NoKeys."""
        import jwt

        from mpack_runtime.rest.jwks import ALGORITHMS

        if len(token) > _LONGEST or not _FORM.fullmatch(token):
            return "it is no signed JSON Web Token"
        try:
            header: dict[str, Any] = jwt.get_unverified_header(token)
            algorithm, key_id = header.get("alg"), header.get("kid")
            if algorithm not in ALGORITHMS or "crit" in header:
                return "its algorithm is not one of those that are taken here"
            key = self._keys.find(key_id, algorithm)
            if key is None:
                return "no key that is known here is its"
            claims = jwt.decode(
                token,
                key.public,
                algorithms=[algorithm],
                audience=self._settings.audience,
                issuer=self._settings.issuer,
                leeway=LEEWAY,
                options={"require": ["exp", "iss", "aud"]},
            )
            if len(self._held) >= _REMEMBERED:
                self._held = {}
            self._held[token] = int(claims["exp"]) + LEEWAY, key
        except jwt.PyJWTError as error:
            return _REASONS.get(type(error).__name__, "it cannot be read")
        except (ValueError, TypeError, OverflowError, RecursionError):
            return "it cannot be read"
        return None


_REASONS = {
    "ExpiredSignatureError": "it has expired",
    "ImmatureSignatureError": "it is not valid yet",
    "InvalidAudienceError": "it is for another audience",
    "InvalidIssuerError": "it is of another issuer",
    "InvalidSignatureError": "its signature is wrong",
    "MissingRequiredClaimError": "it lacks exp, iss or aud",
}
