"""Licences as packages tell them: Python metadata, Debian's copyright files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from email.message import Message

#: Debian's short names that SPDX calls otherwise.
_DEBIAN = {"expat": "MIT", "artistic": "Artistic-1.0-Perl", "psf-2": "PSF-2.0", "public-domain": "public-domain"}
#: What Python packages call licences in words, where that means one of SPDX's.
_WORDS = {
    "mit license": "MIT",
    "the mit license": "MIT",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "3-clause bsd license": "BSD-3-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "bsd 3-clause license": "BSD-3-Clause",
    "new bsd": "BSD-3-Clause",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "isc license (iscl)": "ISC",
    "the unlicense (unlicense)": "Unlicense",
}
_GNU = re.compile(r"(A?L?GPL|GFDL)-(\d)(?:\.(\d))?(\+?)", re.IGNORECASE)
_FIELD = re.compile(r"^License:[ \t]*(\S[^\n]*)$", re.MULTILINE)
_FORMAT = re.compile(r"^Format(?:-Specification)?:\s*\S", re.MULTILINE | re.IGNORECASE)
_BETWEEN = re.compile(r"\s*,\s*|\s+(?:and|or|and/or)\s+")
#: Characters: what is longer is a licence's text and not its name.
_LONGEST = 64


def python_licenses(metadata: Message) -> tuple[str, ...]:
    """Licences of a distribution, one expression or several names: License-Expression, else License, else classifiers.

    `metadata` is a METADATA file's; () where it tells nothing.
    """
    expression = _line(metadata.get("License-Expression"))
    if expression:
        return (expression,)
    classifiers = [str(item) for item in metadata.get_all("Classifier") or ()]
    named = [item.split("::")[-1].strip() for item in classifiers if item.startswith("License ::")]
    stated = _line(metadata.get("License"))
    if stated and stated.upper() != "UNKNOWN":
        return (_WORDS.get(stated.lower(), stated),)
    return _sorted(_WORDS.get(name.lower(), name) for name in named if name != "OSI Approved")


def debian_licenses(copyright_file: bytes) -> tuple[str, ...]:
    """Licence names in a machine-readable copyright file (DEP-5); () for one in free text."""
    text = copyright_file.decode("utf-8", "replace")
    if not _FORMAT.search(text[:2000]):
        return ()
    names = (name for line in _FIELD.findall(text) for name in _BETWEEN.split(line.strip()))
    return _sorted(spdx_name(name) for name in names if 0 < len(name) <= _LONGEST)


def spdx_name(name: str) -> str:
    """SPDX's identifier for one of Debian's short names where the two differ, else the name as it is."""
    gnu = _GNU.fullmatch(name)
    if gnu:
        family, major, minor, later = gnu.groups()
        return f"{family.upper()}-{major}.{minor or 0}-{'or-later' if later else 'only'}"
    return _DEBIAN.get(name.lower(), name)


def _line(value: object) -> str:
    """A field that is one short line; "" for anything else."""
    text = " ".join(str(value or "").split())
    return text if len(text) <= _LONGEST and "\n" not in str(value or "").strip() else ""


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({name for name in names if name}))
