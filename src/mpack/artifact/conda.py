"""conda.yaml: its Python version, its pip section, and its conda packages under their names on a Python index.

Where one has no such name, or comes from a channel of its own, all of them stay conda packages: one solver must see
what depends on what.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from mpack.artifact.conda_names import NOT_PYTHON, NOT_PYTHON_PREFIXES, OTHER_NAMES, SAME_NAMES
from mpack.artifact.model import Finding, Tree
from mpack.artifact.plain import normal_name
from mpack.artifact.requirements import WINDOWS_ONLY, parse_requirements
from mpack.artifact.yamlfile import load_yaml
from mpack.errors import InputError
from mpack.records import dataclass
from mpack.spec import CondaWish, Requirement

_SPEC = r"(?:(?P<channel>[\w./:@%+-]+?)(?:/(?:linux-\w+|noarch))?::)?(?P<name>[A-Za-z0-9_][\w.-]*)\s*(?P<rest>.*)$"
_BRACKET = r"\[\s*version\s*=\s*['\"]?([^'\"\]]+)['\"]?\s*\]$"
_CLAUSE = r"(?P<operator>===?|~=|!=|<=|>=|<|>|=)?\s*(?P<version>[\w.!+-]+(\.\*|\*)?)$"
#: Channels that have what a Python index has: naming one asks for no other package.
_USUAL = ("conda-forge", "defaults", "main", "pkgs/main", "anaconda")
_CHANNEL = r"[A-Za-z0-9_][\w.-]*(/[\w.-]+)*"


@dataclass(frozen=True)
class CondaEnv:
    """What an environment file asks for. `python` is the version as written ("3.11.7", "3.11") or None.

    `conda`: what must come from conda's channels; `requirements` are then the pip section alone. `why` names the entry
    that made it so, or is "".
    """

    python: str | None
    requirements: tuple[Requirement, ...]
    findings: tuple[Finding, ...]
    conda: CondaWish | None = None
    why: str = ""


def parse_conda(text: str, source: str, tree: Tree | None = None, root: str = "", *, always: bool = False) -> CondaEnv:
    """Reads an environment file. `source` names it; a pip section's `-r` is looked for in `tree` relative to `root`.

    `always`: its packages come from conda's channels, even those that an index has. Raises InputError
    requirements-invalid.
    """
    channels, entries = _document(text, source)
    packages = [(entry, *_split(entry, source)) for entry in entries if isinstance(entry, str)]
    why = _on_no_index(packages)
    if not always and not why:
        return _translated(entries, source, tree, root)
    python: str | None = None
    for entry, name, version, _ in packages:
        if name == "python":
            python = _python(version, entry, source)
    requirements, findings = _pip_section(entries, source, tree, root)
    reason = f" ({why!r} is on no Python index that mpack knows)" if why else ""
    findings.append(Finding("note", f"the packages come from conda's channels{reason}", source))
    # pip would install the pip section, which mpack does.
    specs = tuple(dict.fromkeys(entry.strip() for entry, name, _, _ in packages if name != "pip"))
    named = (own for _, _, _, own in packages if own)
    wish = CondaWish(specs, tuple(dict.fromkeys(_checked_channel(item, source) for item in (*channels, *named))))
    return CondaEnv(python, _unique(requirements), tuple(findings), wish, why)


def needs_conda(text: str, source: str) -> bool:
    """True for an environment file that names a package which no Python index is known to have."""
    try:
        _, entries = _document(text, source)
        return bool(_on_no_index([(entry, *_split(entry, source)) for entry in entries if isinstance(entry, str)]))
    except InputError:
        return False


def _on_no_index(packages: list[tuple[str, str, str, str]]) -> str:
    """The first entry that must come from a channel, or ""."""
    return next((entry for entry, name, _, channel in packages if channel or not _known(name)), "")


def translated(found: CondaEnv, source: str) -> CondaEnv:
    """The environment, if an index has all of it. Raises InputError conda-untranslatable."""
    if found.conda is None:
        return found
    raise InputError(
        "conda-untranslatable",
        f"{source}: the conda package {found.why!r} has no counterpart on a Python index that mpack knows.",
        "If it is a Python package, move it to the pip section under its name there; if the model does not need it,"
        " remove it.",
    )


def _pip_section(
    entries: list[Any], source: str, tree: Tree | None, root: str
) -> tuple[list[Requirement], list[Finding]]:
    requirements: list[Requirement] = []
    findings: list[Finding] = []
    for entry in entries:
        for lines in entry.values() if isinstance(entry, dict) else ():
            parsed, notes = parse_requirements("\n".join(lines), f"{source} pip section", tree, root)
            requirements += parsed
            findings += notes
    return requirements, findings


def _translated(entries: list[Any], source: str, tree: Tree | None, root: str) -> CondaEnv:
    """All packages under their names on an index, which they have."""
    python: str | None = None
    requirements: list[Requirement] = []
    dropped: list[str] = []
    for entry in entries:
        if isinstance(entry, dict):
            continue
        name, version, _ = _split(entry, source)
        if name == "python":
            python = _python(version, entry, source)
        elif (other := _translate(name)) is None:
            dropped.append(name)
        else:
            requirements.append(Requirement(other + _specifier(version, entry, source), "model", source))
    listed, findings = _pip_section(entries, source, tree, root)
    if dropped:
        message = f"conda packages that are no Python packages are left out: {', '.join(sorted(dropped))}"
        findings.append(Finding("note", message, source))
    return CondaEnv(python, _unique([*requirements, *listed]), tuple(findings))


def _unique(requirements: list[Requirement]) -> tuple[Requirement, ...]:
    return tuple({item.line: item for item in requirements}.values())


def _document(text: str, source: str) -> tuple[list[str], list[Any]]:
    """The channels, and the entries: strings, and {"pip": [strings]}."""
    try:
        document = load_yaml(text)
    except ValueError as error:
        raise _invalid(source, f"it is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise _invalid(source, "it is no conda environment (a mapping with dependencies)")
    entries = document.get("dependencies") or []
    if not isinstance(entries, list):
        raise _invalid(source, "dependencies is not a list")
    for entry in entries:
        pip = isinstance(entry, dict) and set(entry) == {"pip"} and isinstance(entry["pip"] or [], list)
        if pip:
            entry["pip"] = entry["pip"] or []
            pip = all(isinstance(line, str) for line in entry["pip"])
        if not isinstance(entry, str) and not pip:
            raise _invalid(source, f"{entry!r} in dependencies is neither a package nor a pip section")
    channels = document.get("channels") or []
    if not isinstance(channels, list) or not all(isinstance(item, str) for item in channels):
        raise _invalid(source, "channels is not a list of names")
    return [item for item in channels if item != "nodefaults"], entries


def _checked_channel(channel: str, source: str) -> str:
    """A channel's name or public URL: what an artifact names is read on this machine and told to others."""
    if re.fullmatch(_CHANNEL, channel):
        return channel
    parts = urlsplit(channel)
    shown = re.sub(r"//[^/@]*@", "//", re.sub(r"/t/[^/]+", "/t/…", channel))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _invalid(source, f"the channel {shown!r} is neither a name nor an http(s) URL")
    if parts.username or parts.password or parts.query or "/t/" in parts.path:
        raise _invalid(source, f"the channel {shown} holds a password or token, and the artifact is no place for it")
    return channel.rstrip("/")


def _split(entry: str, source: str) -> tuple[str, str, str]:
    """Name, version as written, and the channel that this entry alone names, if it is no usual one."""
    match = re.match(_SPEC, entry.strip())
    if not match:
        raise _invalid(source, f"{entry!r} is no conda package")
    rest = match["rest"].strip()
    bracket = re.match(_BRACKET, rest) if rest.startswith("[") else None
    channel = match["channel"] or ""
    return match["name"].lower(), bracket[1] if bracket else rest, "" if channel in _USUAL else channel


def _known(name: str) -> bool:
    """True for a name that is known on a Python index, or known to be needed by none."""
    if name == "python" or name in OTHER_NAMES or name in WINDOWS_ONLY or normal_name(name) in SAME_NAMES:
        return True
    return name in NOT_PYTHON or name.startswith(NOT_PYTHON_PREFIXES)


def _translate(name: str) -> str | None:
    """A known name on an index; None for what is there under no name."""
    if name in OTHER_NAMES:
        return OTHER_NAMES[name]
    if name in WINDOWS_ONLY:
        return None
    if normal_name(name) in SAME_NAMES:
        return normal_name(name)
    return None


def _specifier(version: str, entry: str, source: str) -> str:
    """A conda version as PEP 440 writes it: "=1.2" and "1.2.*" -> "==1.2.*", "==1.2" and "=1.2=build" -> "==1.2"."""
    version = re.sub(r"\s+(?=[\w*]+$)", "=", version) if re.match(r"[\w.]+\s+\w", version) else version
    version = version.replace(" ", "")
    if version in ("", "*", "=*", "==*"):
        return ""
    exact = re.fullmatch(r"={0,2}(\w[\w.!+*-]*)=([\w.*+-]+)", version)
    if exact and not exact[1].endswith("*"):
        return _checked(f"=={exact[1]}", entry, source)
    if exact:
        version = exact[1]
    return _checked(",".join(_clause(part, entry, source) for part in version.split(",")), entry, source)


def _clause(part: str, entry: str, source: str) -> str:
    match = re.fullmatch(_CLAUSE, part)
    if not match:
        raise _invalid(source, f"the version of {entry!r} cannot be written for a Python index")
    operator, version = match["operator"], match["version"]
    starred = version.endswith("*")
    base = version.rstrip("*").rstrip(".")
    if operator == "=" or (operator in (None, "==") and starred):
        return f"=={base}.*"
    if operator is None:
        return f"=={base}"
    return f"{operator}{base}.*" if starred and operator == "!=" else f"{operator}{base}"


def _checked(specifier: str, entry: str, source: str) -> str:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        return str(SpecifierSet(specifier))
    except InvalidSpecifier:
        raise _invalid(source, f"the version of {entry!r} is none that a Python index has") from None


def _python(version: str, entry: str, source: str) -> str | None:
    """The version that `python=…` asks for; a range tells none, its lower bound is taken."""
    if not version or version == "*":
        return None
    match = re.match(r"(?:[=~>]=?=?)?\s*(\d+\.\d+(?:\.\d+)?)", version)
    if match:
        return match[1]
    if version.lstrip("=").startswith(("3", "<")):
        return None
    raise _invalid(source, f"{entry!r} asks for a Python that mpack does not know")


def _invalid(source: str, reason: str) -> InputError:
    return InputError("requirements-invalid", f"{source}: {reason}.", "Correct the environment file.")
