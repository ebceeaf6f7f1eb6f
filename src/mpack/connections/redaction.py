"""What was revealed is kept out of what mpack prints: the words of a registry or a library may repeat a secret."""

from __future__ import annotations

HIDDEN = "*****"
#: Characters: a shorter secret is not looked for, since it would be found in every other word.
SHORTEST = 4
#: Characters of a line of a longer secret (a key file) from which on the line is looked for by itself.
_LINE = 16
#: Bytes of a secret that must stand in base64 of more than it, to be looked for in there.
_WITHIN = 8

_known: set[str] = set()
_forms: set[str] = set()


def hide(secret: str) -> None:
    """From now on `redact` finds the secret: plain, in base64 (also amid other bytes), in URLs, in JSON."""
    for text in {secret, secret.strip(), *(line.strip() for line in secret.splitlines() if len(line) >= _LINE)}:
        if len(text) >= SHORTEST and text not in _known:
            _known.add(text)
            _forms.update(_shapes(text))


def redact(text: str) -> str:
    """The text with ***** in place of every secret that was revealed."""
    # The longest first: what is left of a secret after a part of it was replaced would be shown.
    for form in sorted(_forms, key=len, reverse=True) if _forms else ():
        text = text.replace(form, HIDDEN)
    return text


def _shapes(text: str) -> set[str]:
    import base64
    import json
    from urllib.parse import quote, quote_plus

    data = text.encode("utf-8", "surrogateescape")
    found = {text, repr(text)[1:-1], repr(data)[2:-1]}
    found |= {json.dumps(text, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False)}
    found |= {quote(data, safe=""), quote(data), quote_plus(data)}
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        found |= {encode(data).decode(), encode(data).decode().rstrip("=")}
        for before in (0, 1, 2):
            # What stands before the secret shifts its base64: the characters that only the secret's bits are in.
            first, bits = (before * 8 + 5) // 6, (before + len(data)) * 8
            if len(data) >= _WITHIN:
                found.add(encode(b"\0" * before + data).decode()[first : bits // 6])
    return {form for form in found if len(form) >= SHORTEST}
