"""What mpack asks py-rattler, in a process of its own: a job as JSON on stdin, what came of it as JSON on stdout.

Only the standard library and py-rattler: it is run as a script, beside `inside.py`. A process of its own, because it
can be ended at any moment, and because py-rattler's threads may outlive the interpreter and crash it at its end. Jobs:

solve     {"specs": [[channel or null, specification]], "constraints": [text], "virtual": [[name, version, build]],
          "subdirs": ["linux-64", "noarch"], "priority": "strict|disabled", "repodata": directory, "access":
          {"channels": {name: address}, "mirrors": {address: [address with a token]}, "logins": [[host, path, header]],
          "verify": bool}, "patience": seconds} -> {"packages": [fields of `mpack.plan.CondaPackage`]}
fetch     {"packages": [{"url", "path", "file", "sha256", "size"}], "access", "patience"} -> {}: all, whole and right
read      {"packages": [{"path", "name", "version", "build"}], "bytes", "entries"} -> {"packages": [facts]}
install   as read, and {"target", "prefix", "scratch", "subdir"}: all packages linked into `target` for `prefix`

{"error": kind, "message": text} says why not. Packages are hostile input: whatever names a path is looked at before
py-rattler installs anything.
"""

# os.path, not pathlib: paths of packages are text of others.
# ruff: noqa: PTH119, PTH123

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if __name__ == "__main__":
    from inside import Refused, check_target, plain, through_link, unpacked  # type: ignore[import-not-found]

    del sys.path[0]  # mpack's own modules are none of py-rattler's
else:
    from mpack.conda.inside import Refused, check_target, plain, through_link, unpacked

if TYPE_CHECKING:
    from collections.abc import Iterable

    Job = dict[str, Any]

_DIST = re.compile(r"(?:^|.*/)site-packages/[^/]+\.(?:dist-info/METADATA|egg-info/PKG-INFO|egg-info)$")
_SITE = re.compile(r"lib/python3\.\d+t?/site-packages")
_ENTRY_POINT = re.compile(r"\s*[\w.+-]+\s*=\s*[\w.]+\s*:\s*[\w.]+\s*")
_SCRIPT = re.compile(r"(?:bin/\.[^/]+-(?:post-link|pre-unlink|pre-link)\.sh|etc/conda/(?:de)?activate\.d/[^/]+)$")
#: Bytes of a file of info/ that is read whole.
_INFO = 64 << 20


class Failed(Exception):
    """Why a job cannot be done: (kind, message)."""


def _client(job: Job) -> Any:
    from rattler import Client, Config
    from rattler.networking.middleware import (
        AddHeadersMiddleware,
        AuthenticationMiddleware,
        MirrorMiddleware,
        RetryMiddleware,
    )

    access = job["access"]
    if not access["verify"]:
        if access["mirrors"] or access["logins"]:
            raise Failed("unreachable", "a channel with a token or password is not asked with ssl_verify: false")
        return Client.from_config(Config.from_toml("tls-no-verify = true"))

    def headers(host: str, path: str) -> dict[str, str] | None:
        for place, prefix, header in access["logins"]:
            if host == place and (path + "/").startswith(prefix.rstrip("/") + "/"):
                return {"Authorization": header}
        return None

    mirrors = [MirrorMiddleware(access["mirrors"])] if access["mirrors"] else []
    logins = [AddHeadersMiddleware(headers)] if access["logins"] else []
    return Client([RetryMiddleware(3), *mirrors, *logins, AuthenticationMiddleware()])


async def solve(job: Job) -> Job:
    """The newest packages that satisfy all specifications together."""
    from rattler import Channel, Gateway, GenericVirtualPackage, MatchSpec, PackageName, Version
    from rattler import solve as rattler_solve
    from rattler.channel import ChannelPriority
    from rattler.exceptions import GatewayError, SolverError
    from rattler.package.build_string import BuildString

    urls: dict[str, str] = job["access"]["channels"]
    specs = []
    for channel, text in job["specs"]:
        try:
            specs.append(MatchSpec(f"{urls[channel]}::{text}" if channel else text))
        except Exception as error:
            raise Failed("invalid", f"{text!r} is no conda package ({error})") from error
    constraints = [MatchSpec(text) for text in job["constraints"]]
    virtual = [
        GenericVirtualPackage(PackageName(name), Version(version), BuildString(build))
        for name, version, build in job["virtual"]
    ]
    try:
        solving = rattler_solve(
            [Channel(url) for url in urls.values()],
            specs,
            gateway=Gateway(cache_dir=job["repodata"], client=_client(job)),
            platforms=job["subdirs"],
            virtual_packages=virtual,
            constraints=constraints,
            channel_priority=ChannelPriority.Disabled if job["priority"] == "disabled" else ChannelPriority.Strict,
        )
        records = await asyncio.wait_for(solving, 10 * job["patience"])
    except asyncio.TimeoutError as error:
        raise Failed("unreachable", f"no answer from {', '.join(urls)} in {10 * job['patience']} s") from error
    except SolverError as error:
        raise Failed("clash", str(error)) from error
    except GatewayError as error:
        raise Failed("unreachable", str(error)) from error
    return {"packages": [_told(record, urls) for record in records]}


def _told(record: Any, urls: dict[str, str]) -> Job:
    # Of two channels one may be a folder of the other: the longer address is the right one.
    fitting = [name for name, url in urls.items() if record.url.startswith(url.rstrip("/") + "/")]
    if not fitting or record.sha256 is None:
        what = "is of no channel that was asked" if record.sha256 else "has no SHA-256 in its channel's repodata"
        raise Failed("invalid", f"{record.file_name} {what}")
    return {
        "name": record.name.normalized,
        "version": str(record.version),
        "build": str(record.build),
        "subdir": record.subdir,
        "channel": max(fitting, key=lambda name: len(urls[name])),
        "file": record.file_name,
        "sha256": record.sha256.hex(),
        "size": record.size or 0,
        "depends": list(record.depends),
    }


class _Sink:
    """Takes a download, counts and hashes it. `fault`: why it took no more, which py-rattler does not pass on."""

    def __init__(self, path: str, limit: int) -> None:
        self._file = open(path, "wb")  # noqa: SIM115 - closed by `close`
        self._left = limit
        self.written = 0
        self.fault: Failed | None = None
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._left -= len(data)
        self.written += len(data)
        if self._left < 0:
            self.fault = Failed("unlike", "it is larger than was locked")
            raise self.fault
        self.digest.update(data)
        try:
            return self._file.write(data)
        except OSError as error:
            self.fault = Failed("disk", str(error))
            raise self.fault from error

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


async def fetch(job: Job) -> Job:
    """Four at a time; the first that fails ends it."""
    client, turns = _client(job), asyncio.Semaphore(4)

    async def one(package: Job) -> None:
        async with turns:
            await _fetch_one(client, package, job["patience"])

    await asyncio.gather(*map(one, job["packages"]))
    return {}


async def _download(client: Any, url: str, sink: _Sink, patience: float) -> None:
    """Raises Failed where nothing comes for `patience` seconds; py-rattler's own limit is on all of a download."""
    from rattler.package_streaming import download_to_writer

    async def download() -> None:
        await download_to_writer(client, url, sink)

    task, before = asyncio.ensure_future(download()), -1
    while not task.done():
        if sink.written == before:
            task.cancel()
            raise Failed("unreachable", f"nothing came for {patience} s")
        before = sink.written
        await asyncio.wait([task], timeout=patience)
    task.result()


async def _fetch_one(client: Any, package: Job, patience: float) -> None:
    try:
        sink = _Sink(package["path"], package["size"])
    except OSError as error:
        raise Failed("disk", str(error)) from error
    try:
        if package["url"].startswith("file:"):
            with open(unquote(urlsplit(package["url"]).path), "rb") as stream:
                while block := stream.read(1 << 20):
                    sink.write(block)
        else:
            await _download(client, package["url"], sink, patience)
    except Exception as error:
        kind, why = (sink.fault or error).args if sink.fault or isinstance(error, Failed) else ("unreachable", error)
        raise Failed(kind, f"{package['file']}: {why}") from error
    finally:
        sink.close()
    if sink.digest.hexdigest() != package["sha256"]:
        raise Failed("unlike", f"{package['file']} is not what was locked: its SHA-256 is {sink.digest.hexdigest()}")


class _Reader:
    """Reads packages one after another, within limits on all of them together."""

    def __init__(self, limit: int, entries: int) -> None:
        self._bytes = limit
        self._entries = entries

    async def read(self, package: Job) -> Job:
        """What a package brings. Raises Refused."""
        from rattler.package_streaming import PackageArchive

        try:
            archive = await PackageArchive.from_path(package["path"])
            seen, links, texts = await self._entries_of(archive)
        except (Refused, MemoryError):
            raise
        except Exception as error:
            raise Refused(f"it cannot be read: {error}") from error
        index = _object(texts, "info/index.json")
        for key in ("name", "version", "build"):
            if str(index.get(key)) != package[key] or "/" in package[key]:
                raise Refused(f"its own {key} is {index.get(key)!r}, its channel's {package[key]!r}")
        link = _object(texts, "info/link.json", {})
        _check_paths(_object(texts, "info/paths.json", {}))
        _check_link(link)
        site = index.get("python_site_packages_path")
        if site is not None and not _SITE.fullmatch(str(site)):
            raise Refused(f"its site-packages are at {site!r}")
        return {
            "paths": sorted(path for path in seen if not path.startswith("info/")),
            "links": sorted(links),
            "site": site,
            "noarch": index.get("noarch") == "python",
            "metadata": [text.decode("utf-8", "replace") for path, text in texts.items() if _DIST.fullmatch(path)],
            "scripts": sorted(path for path in seen if _SCRIPT.fullmatch(path)),
        }

    async def _entries_of(self, archive: Any) -> tuple[set[str], set[str], dict[str, bytes]]:
        seen: set[str] = set()
        links: set[str] = set()
        texts: dict[str, bytes] = {}
        for section in ("info", "pkg"):
            async for entry in archive.stream(section):
                name = plain(entry.name)
                seen.add(name)
                self._entries -= 1
                self._bytes -= entry.size
                if self._bytes < 0 or self._entries < 0:
                    raise Refused("the packages hold more bytes or files than a model's files may")
                if entry.is_link:
                    links |= {name} if entry.is_symlink else set()
                    check_target(name, entry.link_target or "", symlink=entry.is_symlink)
                elif entry.is_file and (name in _READ or _DIST.fullmatch(name)):
                    if entry.size > _INFO:
                        raise Refused(f"its {name} has {entry.size} bytes")
                    texts[name] = await entry.read()
        return seen, links, texts


_READ = ("info/index.json", "info/paths.json", "info/link.json")


def _object(texts: dict[str, bytes], path: str, default: Any = None) -> Any:
    try:
        value = json.loads(texts[path]) if path in texts else default
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Refused(f"its {path} is none")
    return value


def _check_paths(paths: Any) -> None:
    listed = paths.get("paths", [])
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise Refused("its info/paths.json is none")
    for item in listed:
        plain(str(item.get("_path")))


def _check_link(link: Any) -> None:
    noarch = link.get("noarch") or {}
    points = noarch.get("entry_points") or [] if isinstance(noarch, dict) else [None]
    for item in points:
        if not isinstance(item, str) or not _ENTRY_POINT.fullmatch(item):
            raise Refused(f"its entry point is {item!r}")


async def read(job: Job) -> Job:
    """The facts of all packages. Raises Failed."""
    reader = _Reader(job["bytes"], job["entries"])
    facts = []
    for package in job["packages"]:
        try:
            facts.append(await reader.read(package))
        except Refused as error:
            raise Failed("refused", f"{os.path.basename(package['path'])}: {error}") from error
    site = _site(job["packages"], facts)
    _require_apart(facts, site)
    return {"packages": facts, "site": site}


def _require_apart(facts: list[Job], site: str) -> None:
    if (path := through_link(facts, site)) is not None:
        raise Failed("refused", f"what is in {path} would be written through a link")


def _unpack(package: Job, fact: Job, scratch: str) -> None:
    """Unpacks a package as py-rattler will, where it looks for it, and looks at what came of it."""
    from rattler.package_streaming import extract

    folder = Path(scratch, "{name}-{version}-{build}".format(**package))
    try:
        extract(Path(package["path"]), folder)
        paths, links = unpacked(str(folder))
    except Exception as error:
        raise _not_done(f"{os.path.basename(package['path'])}: {error}") from error
    fact |= {"paths": sorted(paths), "links": sorted(links)}


def _not_done(text: str) -> Failed:
    return Failed("disk" if "os error 28" in text or "No space left" in text else "refused", text)


def _site(packages: Iterable[Job], facts: Iterable[Job]) -> str:
    """Where noarch packages' modules go, "" without a Python."""
    for package, fact in zip(packages, facts, strict=True):
        if package["name"] == "python":
            minor = ".".join(package["version"].split(".")[:2])
            return fact["site"] or f"lib/python{minor}/site-packages"
    return ""


async def install(job: Job) -> Job:
    """Checks the packages, and links them."""
    from rattler import Platform, RepoDataRecord
    from rattler import install as rattler_install

    found = await read(job)
    for number, package in enumerate(job["packages"]):
        _unpack(package, found["packages"][number], job["scratch"])
    _require_apart(found["packages"], found["site"])
    records = [await RepoDataRecord.from_package_archive(package["path"]) for package in job["packages"]]
    try:
        await rattler_install(
            records,
            job["target"],
            cache_dir=job["scratch"],
            installed_packages=[],
            platform=Platform(job["subdir"]),
            execute_link_scripts=False,
            show_progress=False,
            alternative_target_prefix=job["prefix"],
        )
    except Exception as error:
        raise _not_done(str(error)) from error
    return found


_JOBS = {"solve": solve, "fetch": fetch, "read": read, "install": install}


def main() -> None:
    """One job. Ends at once: py-rattler's threads may still be at something."""
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG: not longer than mpack itself
    job = json.load(sys.stdin)
    try:
        answer = asyncio.run(_JOBS[job["do"]](job))
    except Failed as error:
        answer = dict(zip(("error", "message"), error.args, strict=True))
    except ImportError as error:
        answer = {"error": "missing", "message": str(error)}
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
