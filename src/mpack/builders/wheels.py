"""The dependencies as layers: each wheel is laid out and compressed once, whatever environments it is in.

A large wheel is a layer of its own, which models, registries and hosts share; the small ones are pieces that are joined
to one layer, with what makes the directory a venv. Which is which depends on a wheel's bytes alone.
"""

from __future__ import annotations

import hashlib
import os
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpack.contents import Contents, sha256_file
from mpack.oci import tar
from mpack.oci.image import canonical_json
from mpack.oci.layer import ENCODER, Entry, Layer, write_joined, write_piece
from mpack.oci.layercache import Kept
from mpack.oci.store import Store
from mpack.plan import VENV, ImagePlan, LockedPackage
from mpack.records import dataclass

if TYPE_CHECKING:
    from mpack.env.index import IndexSettings
    from mpack.env.layout import Item

#: Bytes of files from which a wheel is a layer of its own, and the number of such layers. Measured: with nine layers
#: instead of one `docker load` takes a tenth longer; what is shared is nine tenths of a scikit-learn environment.
LARGE = 8 << 20
MOST_LAYERS = 24
_KIND = "dependencies"


@dataclass(frozen=True)
class _Form:
    """What of a wheel depends on its environment: paths that another wheel wins, and whether it must be joined."""

    lost: tuple[str, ...] = ()
    joined: bool = False


_PLAIN = _Form()


class _Job:
    """A wheel to be compressed."""

    def __init__(
        self, name: str, key: str, items: Sequence[Item], form: _Form, wanted: Set[str], *, apart: bool
    ) -> None:
        self.name = name
        self.key = key
        self.form = form
        self.apart = apart
        self.entries = [_held(entry, wanted) for entry in _entries(items) if entry.path not in form.lost]
        self.size = sum(entry.size for entry in self.entries)
        self.told = {f"{VENV}/{item.path}": item.digest for item in items if isinstance(item.source, str)}

    def holds(self, hashes: Mapping[str, str]) -> bool:
        """True if the files are what the wheel's RECORD says, as far as it says anything."""
        return all(
            not told.startswith("sha256=") or path not in hashes or told == _as_record(hashes[path])
            for path, told in self.told.items()
        )


class _Unlike(Exception):
    """A wheel's files are not what its RECORD says: another's, or changed in uv's cache; or the RECORD is wrong."""


@dataclass(frozen=True)
class Dependencies:
    """The layers in image order, whether each was there, and notes on paths that two wheels have."""

    layers: tuple[tuple[Layer, bool], ...]
    notes: tuple[str, ...] = ()


class WheelLayers:
    """Makes the layers of environments in a store; two builds at once make the same ones."""

    def __init__(self, store: Store, index: IndexSettings) -> None:
        self._store = store
        self._index = index
        #: SHA-256 -> bytes of those sources of a plan's byte code whose wheels were laid out here and now.
        self.sources: dict[str, bytes] = {}

    def layers(self, plan: ImagePlan, contents: Contents) -> Dependencies:
        """The layers of the plan's environment. Raises what `mpack.env.install.wheel_files` raises."""
        name = _name("dependencies", venv_key(plan))
        kept = self._store.cache.get_all(name)
        if kept is not None:
            return Dependencies(tuple((layer, True) for layer in kept.layers))
        wheels, fresh = self._wheels(plan, contents, {})
        lost, notes = _lost(wheels)
        large = sorted(
            (key for key in wheels if _size(wheels[key]) >= LARGE), key=lambda key: (-_size(wheels[key]), key)
        )
        alone, more = large[:MOST_LAYERS], large[MOST_LAYERS:]
        changed = {key: _Form(lost.get(key, ()), key in more) for key in {*lost, *more}}
        if changed:
            wheels, again = self._wheels(plan, contents, changed)
            fresh |= again
            alone = [key for key in alone if _size(wheels[key]) >= LARGE]
        found = [(replace(wheels[key].layers[0], kind=_KIND), key not in fresh) for key in alone]
        found.append((self._joined(plan, [wheels[key] for key in sorted(wheels) if key not in alone]), False))
        self._store.cache.put(name, *(layer for layer, _ in found))
        return Dependencies(tuple(found), notes)

    def hashes(self, plan: ImagePlan, contents: Contents) -> dict[str, tuple[str, Layer]]:
        """Path -> SHA-256 and layer of each file of the wheels. Raises as `layers`."""
        wheels, _ = self._wheels(plan, contents, {})
        return {
            path: (digest, wheels[key].layers[0])
            for key in sorted(wheels)
            for path, digest in wheels[key].hashes.items()
        }

    # --- wheels

    def _wheels(
        self, plan: ImagePlan, contents: Contents, forms: Mapping[str, _Form]
    ) -> tuple[dict[str, Kept], set[str]]:
        """Normalised name -> the wheel, in its form if it has a special one; and the names of those made now."""
        from mpack.env.install import wheel_files
        from mpack.env.layout import key as normalised

        packages = {normalised(package.name): package for package in plan.environment.to_install}
        names = {
            key: _name("wheel", wheel_key(plan, package, forms.get(key, _PLAIN))) for key, package in packages.items()
        }
        found = {key: kept for key, name in names.items() if (kept := self._store.cache.get_all(name)) is not None}
        missing = [key for key in names if key not in found]
        if not missing:
            return found, set()
        environment = replace(plan.environment, packages=tuple(packages[key] for key in missing))
        wanted = frozenset(plan.bytecode.sources if plan.bytecode else ())

        def make(*, apart: bool) -> dict[str, Kept]:
            with (
                self._store.scratch() as scratch,
                wheel_files(
                    environment, plan.below, scratch, index=self._index, contents=contents, apart=apart
                ) as files,
            ):
                return self._make(
                    [
                        _Job(names[key], key, files.get(key, ()), forms.get(key, _PLAIN), wanted, apart=apart)
                        for key in missing
                    ]
                )

        try:
            found |= make(apart=False)
        except _Unlike:
            found |= make(apart=True)
        return found, set(missing)

    def _make(self, jobs: Sequence[_Job]) -> dict[str, Kept]:
        """Compresses wheels side by side, the large ones first."""
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            futures = {
                job.key: pool.submit(self._write, job) for job in sorted(jobs, key=lambda job: job.size, reverse=True)
            }
            try:
                return {key: future.result() for key, future in futures.items()}
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _write(self, job: _Job) -> Kept:
        hashes: dict[str, str] = {}
        if job.size >= LARGE and not job.form.joined:
            layer = replace(self._store.write_layer(job.entries, kind=_KIND, hashes=hashes), kind="wheel")
        else:
            with self._store.writing() as blob:
                layer = write_piece(job.entries, blob, hashes=hashes)
        if not job.apart and not job.holds(hashes):
            raise _Unlike
        self._store.cache.put(job.name, layer, hashes=hashes)
        self.sources |= {hashes[entry.path]: entry.source for entry in job.entries if isinstance(entry.source, bytes)}
        return Kept((layer,), hashes)

    def _joined(self, plan: ImagePlan, wheels: Sequence[Kept]) -> Layer:
        pieces = ((_size(wheel), self._store.open(wheel.layers[0].digest)) for wheel in wheels)
        paths = [path for wheel in wheels for path in wheel.hashes]
        with self._store.writing() as blob:
            return write_joined(venv_entries(plan), pieces, paths, blob, kind=_KIND)


def venv_entries(plan: ImagePlan) -> list[Entry]:
    """What makes /opt/mpack/venv a venv, besides its packages."""
    from mpack.env.install import venv_files

    return _entries(venv_files(plan.environment, plan.below))


def venv_key(plan: ImagePlan) -> dict[str, Any]:
    """What the files of a venv depend on: packages, Python, trimming, and the program that lays them out."""
    base, environment = plan.below, plan.environment
    return {
        "wheels": [wheel_key(plan, package) for package in environment.to_install],
        "python": [base.python, base.python_version, list(base.site_dirs)],
        "layers": [LARGE, MOST_LAYERS],
    }


def wheel_key(plan: ImagePlan, package: LockedPackage, form: _Form = _PLAIN) -> dict[str, Any]:
    """What a wheel's files in an image depend on."""
    return {
        "package": package.to_json(),
        "platform": plan.environment.platform,
        "python": plan.below.minor,
        "trim": plan.environment.trim,
        "form": [list(form.lost), form.joined],
        "large": LARGE,
        "program": _program(),
    }


@cache
def _program() -> str:
    """The hash of `mpack.env.layout`, which need not be imported for it."""
    found = find_spec("mpack.env.layout")
    assert found is not None and found.origin is not None
    return sha256_file(Path(found.origin))


def _name(what: str, key: Any) -> str:
    return f"{what} {ENCODER} {hashlib.sha256(canonical_json(key)).hexdigest()}"


def _size(wheel: Kept) -> int:
    return wheel.layers[0].unpacked_size or 0


def _lost(wheels: Mapping[str, Kept]) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Paths that several wheels have stay in the last by name, as in a docker build: those that each other one loses,
    and a note for each whose bytes differ.
    """
    from mpack.env.layout import conflict_note

    owners: dict[str, list[str]] = {}
    for key in sorted(wheels):
        for path in wheels[key].hashes:
            owners.setdefault(path, []).append(key)
    lost: dict[str, list[str]] = {}
    notes = []
    for path, keys in sorted(owners.items()):
        if len(keys) > 1:
            for key in keys[:-1]:
                lost.setdefault(key, []).append(path)
            if len({wheels[key].hashes[path] for key in keys}) > 1:
                notes.append(conflict_note(path.removeprefix(VENV + "/"), keys))
    return {key: tuple(paths) for key, paths in lost.items()}, tuple(notes)


def _as_record(sha256: str) -> str:
    """A SHA-256 as RECORD has it."""
    return "sha256=" + urlsafe_b64encode(bytes.fromhex(sha256)).rstrip(b"=").decode()


def _held(entry: Entry, wanted: Set[str]) -> Entry:
    """The entry, with its bytes in memory if it is wanted."""
    if entry.path not in wanted or not isinstance(entry.source, Path):
        return entry
    data = entry.source.read_bytes()
    return replace(entry, size=len(data), source=data)


def _entries(items: Iterable[Item]) -> list[Entry]:
    return [_entry(item) for item in items]


def _entry(item: Item) -> Entry:
    path, mode = f"{VENV}/{item.path}", 0o755 if item.executable else 0o644
    if isinstance(item.source, bytes):
        return Entry(path, mode=mode, size=len(item.source), source=item.source)
    if item.link:
        return Entry(path, tar.LINK, 0o777, target=item.source)
    return Entry(path, mode=mode, size=Path(item.source).stat().st_size, source=Path(item.source))
