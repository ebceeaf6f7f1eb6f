"""What the user names an artifact by: a path, an address of a store, and perhaps the digest that it must have."""

from __future__ import annotations

import re
from pathlib import Path

from mpack.errors import UsageError

#: What an address may begin with, for messages.
FORMS = "https://…, s3://…, gs://…, abfs://…, models:/NAME/VERSION, models:/NAME@ALIAS, runs:/RUN_ID/PATH"
_REMOTE = re.compile(r"(?:(?:https?|s3|gs|abfss?)://|(?:models|runs):/)", re.IGNORECASE)
_DIGEST = re.compile(r"(.+)@sha256:([^/@]*)", re.DOTALL)


def is_remote(location: str) -> bool:
    """True for an address that mpack fetches an artifact from; anything else is a path of this machine."""
    return _REMOTE.match(location) is not None


def scheme(location: str) -> str:
    """The address's scheme in lower case; "https" stands for http too, "abfs" for abfss."""
    found = location.partition(":")[0].lower()
    return {"http": "https", "abfss": "abfs"}.get(found, found)


def public(location: str) -> str:
    """The address without what may be secret in it: of an http(s) URL user, password, query and fragment; of an
    object's all of the query but its version."""
    if not is_remote(location):
        return location
    if scheme(location) == "https":
        from urllib.parse import urlsplit, urlunsplit

        try:
            parts = urlsplit(location)
        except ValueError:
            return f"{location.partition('://')[0]}://…"
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    if scheme(location) in ("s3", "gs"):
        head, _, rest = location.partition("://")
        bucket, slash, key = rest.partition("/")
        location = f"{head}://{bucket.rpartition('@')[2]}{slash}{key}"
    before, mark, query = location.partition("?")
    return location if query.startswith("versionId=") and "&" not in query else before if mark else location


def split_digest(text: str) -> tuple[str, str | None]:
    """The location, and the "sha256:…" behind its last @, if there is one. A file whose name really ends so
    is that file.

    Raises UsageError for a digest that is none.
    """
    match = _DIGEST.fullmatch(text)
    if match is None:
        if re.search(r"#sha256[=:]", text) and is_remote(text):
            raise UsageError(
                "usage", "A digest is given as ADDRESS@sha256:HEX, not behind a #.", "Write @sha256: in its place."
            )
        return text, None
    location, digest = match.groups()
    if not is_remote(location):
        try:
            if Path(text).exists():
                return text, None
        except OSError:
            pass
    if not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
        raise UsageError(
            "usage",
            f"{public(location)}@sha256:{digest[:80]} has no SHA-256 of 64 hexadecimal digits.",
            "`sha256sum` prints that of a file, `mpack inspect` that of a directory.",
        )
    return location, f"sha256:{digest.lower()}"
