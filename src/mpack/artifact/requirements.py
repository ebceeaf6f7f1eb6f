"""requirements.txt files: what pip would read from them, as PEP 508 lines, without leaving the artifact.

Kept: names with versions, extras and markers, wheels inside the artifact (as PATH#sha256=HEX), direct and
version-control URLs (as "name @ url"; whether they are allowed is decided when the environment is locked). Followed:
`-r` and `-c` inside the artifact. Left out with a note: options about indexes and installing (mpack uses the host's
own), `--hash` (the lock has its own), lines whose marker is false on Linux. Refused: editable installs, sources by
path, passwords, what is no requirement.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from mpack.artifact.model import Finding, Tree
from mpack.artifact.plain import normal_name, plain_line, plain_name
from mpack.errors import InputError
from mpack.spec import Requirement

if TYPE_CHECKING:
    from packaging.requirements import Requirement as Pep508

#: Options that are left out, and whether a value follows.
_IGNORED = {
    "-i": True,
    "--index-url": True,
    "--extra-index-url": True,
    "--no-index": False,
    "-f": True,
    "--find-links": True,
    "--trusted-host": True,
    "--no-binary": True,
    "--only-binary": True,
    "--prefer-binary": False,
    "--require-hashes": False,
    "--pre": False,
    "--use-feature": True,
    "--no-build-isolation": False,
}
_INDEXES = ("-i", "--index-url", "--extra-index-url", "-f", "--find-links")
#: Packages that exist for Windows only; exported environments name them without a marker.
WINDOWS_ONLY = frozenset(
    ("pywin32", "pypiwin32", "pywin32-ctypes", "pywinpty", "windows-curses", "wincertstore", "win-inet-pton", "wmi")
)
#: Parsing takes time with the square of the length, and stack with the nesting of a marker.
_MAX_LINE = 2000
# Compiled when they are first used: most files need none of them.
_COMMENT = r"(^|\s)#.*$"
_TRAILING_OPTION = r"\s--?(hash|global-option|install-option|config-settings?|build-option)\b.*$"
_OPTION = r"(--?[A-Za-z][A-Za-z-]*)(?:\s*=\s*|\s+|(?<=^-[a-z]))?(.*)$"
_VCS = r"(?i:(git|hg|svn|bzr)\+[a-z+]+://|git@)"
#: How a requirement ends that is a file.
_FILES = (".whl", ".tar.gz", ".zip")
_PYTHONS = ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14")


def parse_requirements(text: str, source: str, tree: Tree | None, root: str) -> tuple[list[Requirement], list[Finding]]:
    """The requirements in `text`. `source` names it in messages; `-r` and wheels are looked for in `tree`, relative to
    `root` (a directory in it, "" for the top). Raises InputError requirements-invalid naming file and line."""
    reader = _Reader(tree, root)
    reader.read(text, source, root)
    requirements = reader.constrained()
    return requirements, reader.findings


class _Reader:
    def __init__(self, tree: Tree | None, root: str) -> None:
        self.tree = tree
        self.root = root
        self.requirements: dict[str, Requirement] = {}
        self.constraints: dict[str, str] = {}
        self.findings: list[Finding] = []
        self.visited: set[str] = set()

    def read(self, text: str, source: str, folder: str, constraint: bool = False) -> None:
        for number, line in _lines(text):
            self._line(line, f"{source}:{number}", folder, constraint)

    def _line(self, line: str, where: str, folder: str, constraint: bool) -> None:
        if line.startswith("-"):
            self._option(line, where, folder, constraint)
            return
        line, dropped = re.subn(_TRAILING_OPTION, "", line) if "-" in line else (line, 0)
        if len(line) > _MAX_LINE:
            raise _invalid(where, f"the line has {len(line)} letters", "Write one requirement a line.")
        if dropped:
            self._note(f"{where}: hashes and build options are left out; the lock has hashes of its own")
        found = self._requirement(line.strip(), where, folder)
        if found is None:
            return
        if constraint:
            self._constrain(found, where)
        else:
            self.requirements.setdefault(found.line, found)

    def _option(self, line: str, where: str, folder: str, constraint: bool) -> None:
        match = re.match(_OPTION, line, re.S)
        name, value = (match[1], match[2].strip()) if match else (line, "")
        if name in ("-r", "--requirement", "-c", "--constraint"):
            self._include(value, where, folder, constraint or name in ("-c", "--constraint"))
        elif name in ("-e", "--editable"):
            raise _invalid(where, "an editable install has no place in an image", "Give a wheel, or a pinned version.")
        elif name in _IGNORED:
            why = "; the index settings of this machine are used" if name in _INDEXES else ""
            self._note(f"{where}: {name} is left out{why}")
        else:
            raise _invalid(where, f"the option {name} is unknown", "Remove the line.")

    def _include(self, value: str, where: str, folder: str, constraint: bool) -> None:
        path = self._inside(value, folder)
        if path is None or self.tree is None:
            raise _invalid(where, f"the file {_no_secret(value)} is not inside the artifact", "Put its lines here.")
        if path in self.visited:
            return
        self.visited.add(path)
        text = decode(self.tree.read(path), path)
        self.read(text, path, posixpath.dirname(path), constraint)

    def _inside(self, value: str, folder: str) -> str | None:
        """The artifact's file that a relative path names, seen from `folder` or from the root."""
        value = unquote(value.removeprefix("file:")) if value.startswith("file:") else value
        if self.tree is None or not value or value.startswith(("/", "~")) or "://" in value:
            return None
        for start in dict.fromkeys((folder, self.root)):
            path = posixpath.normpath(posixpath.join(start, value.replace("\\", "/")))
            if not path.startswith("../") and path in self.tree:
                return path
        return None

    def _requirement(self, line: str, where: str, folder: str) -> Requirement | None:
        plain = None if line.endswith(_FILES) else plain_line(line)
        if plain is not None and plain_name(line) not in WINDOWS_ONLY:
            return Requirement(plain, "model", where)
        if re.match(_VCS, line) or (re.match(r"[a-z]+://", line, re.I) and not line.startswith("file:")):
            return Requirement(_named_url(line, where), "model", where)
        if _looks_like_path(line):
            return Requirement(self._wheel(line, where, folder), "model", where)
        try:
            parsed = parse(line)
        except ValueError as error:
            reason = str(error).splitlines()[0]
            raise _invalid(where, f"{line!r} is no requirement ({reason})", "Write it like name==1.2.3.") from None
        if parsed.url:
            _check_url(parsed.url, where)
            if parsed.url.startswith("file:"):
                raise _invalid(
                    where, f"{parsed.name} is taken from a path of one machine", "Put the wheel into the artifact."
                )
        if normal_name(parsed.name) in WINDOWS_ONLY or not _possible(parsed):
            self._note(f"{where}: {parsed} is left out: it is not for Linux")
            return None
        return Requirement(str(parsed), "model", where)

    def _wheel(self, line: str, where: str, folder: str) -> str:
        value = line.partition(" @ ")[2].strip() or line
        value = value.partition(";")[0].strip().partition("[")[0]
        path = self._inside(value, folder)
        if path is None:
            raise _invalid(
                where, f"{_no_secret(value)} is not a file inside the artifact", "Put the wheel into the artifact."
            )
        if not path.endswith(".whl"):
            raise _invalid(where, f"{value} is no wheel", "Build a wheel of it (pip wheel) and name that.")
        from packaging.utils import parse_wheel_filename

        try:
            parse_wheel_filename(posixpath.basename(path))
        except ValueError as error:
            raise _invalid(where, f"{value} is not named as a wheel is: {error}", "Do not rename wheels.") from None
        assert self.tree is not None
        return f"{path}#sha256={self.tree[path].sha256}"

    def _constrain(self, found: Requirement, where: str) -> None:
        try:
            parsed = parse(found.line)
        except ValueError:
            raise _invalid(
                where, "a constraint must be a name with versions", "Move the line to the requirements."
            ) from None
        name = normal_name(parsed.name)
        self.constraints[name] = ",".join(filter(None, (self.constraints.get(name, ""), str(parsed.specifier))))

    def constrained(self) -> list[Requirement]:
        """The requirements with the constraints on their names added."""
        result = []
        for item in self.requirements.values():
            name = requirement_name(item)
            more = self.constraints.pop(name, "")
            if more and ".whl#" not in item.line:
                parsed = parse(item.line)
                if not parsed.url:
                    parsed.specifier &= type(parsed.specifier)(more)
                    item = replace(item, line=str(parsed))
            result.append(item)
        if self.constraints:
            names = ", ".join(sorted(self.constraints))
            self._note(f"constraints on packages that are not listed are left out: {names}")
        return result

    def _note(self, message: str) -> None:
        self.findings.append(Finding("note", message))


def requirement_name(requirement: Requirement) -> str:
    """The normalised name of the package that a requirement is about; of a wheel by its file name."""
    path = requirement.line.partition("#")[0]
    if path.endswith(".whl") and " @ " not in path:
        from packaging.utils import parse_wheel_filename

        return str(parse_wheel_filename(posixpath.basename(path))[0])
    return plain_name(requirement.line) or normal_name(parse(requirement.line).name)


def parse(line: str) -> Pep508:
    """Any requirement. Raises InvalidRequirement, a ValueError."""
    from packaging.requirements import Requirement as Pep508

    return Pep508(line)


def decode(data: bytes, path: str) -> str:
    """The text of a requirements or environment file: UTF-8, with or without a mark, or UTF-16 (PowerShell's)."""
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise _invalid(
            path, f"it is not UTF-8 text ({error.reason} at byte {error.start})", "Save it as UTF-8."
        ) from None


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """(number of the first line, logical line) without comments and empty lines, continuation lines joined."""
    pending, start = "", 0
    for number, raw in enumerate(text.splitlines(), 1):
        line = (re.sub(_COMMENT, "", raw) if "#" in raw else raw).rstrip()
        start = start or number
        if raw.rstrip().endswith("\\") and not re.search(_COMMENT, raw):
            pending += line[:-1] + " "
            continue
        logical = (pending + line).strip()
        if logical:
            yield start, logical
        pending, start = "", 0
    if pending.strip():
        yield start, pending.strip()


def _looks_like_path(line: str) -> bool:
    if re.match(r"[\w.-]+\s*(\[[^\]]*\])?\s*@\s*(?!file:)[a-z+]+://", line, re.I):
        return False
    target = line.partition(" @ ")[2].strip() if re.match(r"[\w.-]+(\[[^\]]*\])? @ \.", line) else line
    first = target.partition(";")[0].strip()
    return first.endswith(_FILES) or first.startswith((".", "/", "~", "file:")) or "\\" in first


def _possible(parsed: Pep508) -> bool:
    """False if the marker is false on Linux whatever the Python."""
    if parsed.marker is None:
        return True
    linux = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "extra": ""}
    python = {"implementation_name": "cpython", "platform_python_implementation": "CPython"}
    environments = (
        {
            **linux,
            **python,
            "python_version": version,
            "python_full_version": f"{version}.5",
            "platform_machine": machine,
        }
        for version in _PYTHONS
        for machine in ("x86_64", "aarch64")
    )
    return any(parsed.marker.evaluate(environment) for environment in environments)


def _named_url(line: str, where: str) -> str:
    """A bare URL as "name @ url": the name from #egg=, a wheel's file name, or the repository's."""
    url, _, marker = line.partition(" ;")
    if url.startswith("git@"):
        raise _invalid(where, f"{_no_secret(url)} is no URL", "Write name @ git+ssh://git@host/path.")
    _check_url(url, where)
    base, _, fragment = url.partition("#")
    parts = dict(item.partition("=")[::2] for item in fragment.split("&") if item)
    name = parts.pop("egg", "")
    file = posixpath.basename(urlsplit(base).path)
    if not name and file.endswith(".whl"):
        name = file.partition("-")[0]
    if not name and re.match(_VCS, base):
        name = file.partition("@")[0].removesuffix(".git")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(\[[\w., -]+\])?", name):
        raise _invalid(where, f"the URL {_no_secret(base)} does not tell the package's name", "Write name @ URL.")
    rest = "&".join(f"{key}={value}" for key, value in parts.items())
    return f"{name} @ {base}{'#' + rest if rest else ''}" + (f" ;{marker}" if marker else "")


def _check_url(url: str, where: str) -> None:
    parts = urlsplit(url.partition("+")[2] if "+" in url.partition(":")[0] else url)
    # A user alone is a token over http, and a mere login name over ssh.
    if parts.password or (parts.username and parts.scheme in ("http", "https")):
        raise _invalid(
            where,
            f"the URL {_no_secret(url)} holds a password, and the artifact is no place for it",
            "Leave it out and set the credentials on this machine (keyring, .netrc, git's credential helper).",
        )


def _no_secret(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//", url)


def _invalid(where: str, reason: str, hint: str) -> InputError:
    return InputError("requirements-invalid", f"{where}: {reason}.", hint)
