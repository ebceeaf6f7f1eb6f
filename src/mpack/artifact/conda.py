"""conda.yaml: its Python version, its pip section, and its conda packages under their names on a Python index."""

from __future__ import annotations

import re
from typing import Any

from mpack.artifact.conda_names import NOT_PYTHON, NOT_PYTHON_PREFIXES, OTHER_NAMES, SAME_NAMES
from mpack.artifact.model import Finding, Tree
from mpack.artifact.plain import normal_name
from mpack.artifact.requirements import WINDOWS_ONLY, parse_requirements
from mpack.artifact.yamlfile import load_yaml
from mpack.errors import InputError
from mpack.records import dataclass
from mpack.spec import Requirement

_SPEC = r"(?:[\w./:-]+::)?(?P<name>[A-Za-z0-9_][\w.-]*)\s*(?P<rest>.*)$"
_BRACKET = r"\[\s*version\s*=\s*['\"]?([^'\"\]]+)['\"]?\s*\]$"
_CLAUSE = r"(?P<operator>===?|~=|!=|<=|>=|<|>|=)?\s*(?P<version>[\w.!+-]+(\.\*|\*)?)$"


@dataclass(frozen=True)
class CondaEnv:
    """What an environment file asks for. `python` is the version as written ("3.11.7", "3.11") or None."""

    python: str | None
    requirements: tuple[Requirement, ...]
    findings: tuple[Finding, ...]


def parse_conda(text: str, source: str, tree: Tree | None = None, root: str = "") -> CondaEnv:
    """Reads an environment file. `source` names it; a pip section's `-r` is looked for in `tree` relative to `root`.

    Raises InputError conda-untranslatable for a package that has no known counterpart, requirements-invalid else.
    """
    python: str | None = None
    requirements: list[Requirement] = []
    findings: list[Finding] = []
    dropped: list[str] = []
    for entry in _dependencies(text, source):
        if isinstance(entry, dict):
            for lines in entry.values():
                parsed, notes = parse_requirements("\n".join(lines), f"{source} pip section", tree, root)
                requirements += parsed
                findings += notes
            continue
        name, version = _split(entry, source)
        if name == "python":
            python = _python(version, entry, source)
            continue
        other = _translate(name, entry, source)
        if other is None:
            dropped.append(name)
            continue
        requirements.append(Requirement(other + _specifier(version, entry, source), "model", source))
    if dropped:
        message = f"conda packages that are no Python packages are left out: {', '.join(sorted(dropped))}"
        findings.append(Finding("note", message, source))
    return CondaEnv(python, _unique(requirements), tuple(findings))


def _unique(requirements: list[Requirement]) -> tuple[Requirement, ...]:
    return tuple({item.line: item for item in requirements}.values())


def _dependencies(text: str, source: str) -> list[Any]:
    """The entries: strings, and {"pip": [strings]}."""
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
    return entries


def _split(entry: str, source: str) -> tuple[str, str]:
    match = re.match(_SPEC, entry.strip())
    if not match:
        raise _invalid(source, f"{entry!r} is no conda package")
    rest = match["rest"].strip()
    bracket = re.match(_BRACKET, rest) if rest.startswith("[") else None
    return match["name"].lower(), bracket[1] if bracket else rest


def _translate(name: str, entry: str, source: str) -> str | None:
    if name in OTHER_NAMES:
        return OTHER_NAMES[name]
    if name in WINDOWS_ONLY:
        return None
    if normal_name(name) in SAME_NAMES:
        return normal_name(name)
    if name in NOT_PYTHON or name.startswith(NOT_PYTHON_PREFIXES):
        return None
    raise InputError(
        "conda-untranslatable",
        f"{source}: the conda package {entry!r} has no counterpart on a Python index that mpack knows.",
        "If it is a Python package, move it to the pip section under its name there; if the model does not need it,"
        " remove it.",
    )


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
