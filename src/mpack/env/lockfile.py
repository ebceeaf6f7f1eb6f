"""The lock file: what was resolved, so that every machine makes the same image or says what it lacks.

`<artifact>.mpack.lock` is JSON with one entry for each way of building the artifact (packager, platform, Python, base,
trimming). It holds no index address, no secret and no host path.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import Any

from mpack import __version__
from mpack.env.lockcheck import check_entry
from mpack.env.lockmisfit import entry_fault, no_entry, no_lock, read_field, unreadable
from mpack.env.lockpath import lock_path as lock_path
from mpack.errors import InputError, disk_fault
from mpack.plan import BaseImage, Bytecode, Environment
from mpack.records import dataclass
from mpack.spec import BaseWish, Requirement

LOCK_SCHEMA = 1


@dataclass(frozen=True)
class LockInputs:
    """What an entry was made for. All but `requirements` is the entry's key."""

    packager: str
    platform: str
    python: str | None
    base: BaseWish
    trim: bool
    requirements: tuple[str, ...]
    #: What the model was converted to.
    optimize: str | None = None
    conda: bool = False

    @property
    def key(self) -> str:
        """One line that tells entries of a file apart."""
        packages = "+".join(self.base.system_packages)
        parts = [
            self.packager,
            self.platform,
            f"python={self.python or 'any'}",
            f"base={self.base.reference or 'auto'}",
        ]
        if self.base.kind != "python":
            parts.append(f"kind={self.base.kind}")
        if self.base.preferred:
            parts.append(f"preferred={self.base.preferred}")
        if self.base.needs:
            parts.append(f"needs={'+'.join(sorted(self.base.needs))}")
        if self.base.shell:
            parts.append("shell")
        if packages:
            parts.append(f"packages={packages}")
        if not self.trim:
            parts.append("no-trim")
        if self.optimize:
            parts.append(f"optimize={self.optimize}")
        if self.conda:
            parts.append("conda")
        return " ".join(parts)


@dataclass(frozen=True)
class LockEntry:
    """One way of building: inputs, base by digest, environment with hashes, byte code, layer encoder.

    `product`: of an environment that converts models, an artifact's digest and that of the graph made of it.
    `draft`: resolved and not built yet, so the first build adds the byte code.
    """

    key: str
    requirements: tuple[str, ...]
    base: BaseImage
    environment: Environment
    bytecode: Bytecode | None
    encoder: str
    product: tuple[str, str] | None = None
    draft: bool = False

    def to_json(self) -> dict[str, Any]:
        product = (
            {} if self.product is None else {"product": dict(zip(("artifact", "graph"), self.product, strict=True))}
        )
        return {
            **product,
            **({"draft": True} if self.draft else {}),
            "key": self.key,
            "requirements": list(self.requirements),
            "base": self.base.to_json(),
            "environment": self.environment.to_json(),
            "bytecode": self.bytecode.to_json() if self.bytecode else None,
            "encoder": self.encoder,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> LockEntry:
        """The inverse of `to_json`. Raises ValueError, KeyError or TypeError on what `write` never writes."""
        entry = cls(
            data["key"],
            read_field(data, "requirements", tuple),
            read_field(data, "base", BaseImage.from_json),
            read_field(data, "environment", Environment.from_json),
            read_field(data, "bytecode", Bytecode.from_json) if data["bytecode"] else None,
            data["encoder"],
            (data["product"]["artifact"], data["product"]["graph"]) if "product" in data else None,
            data.get("draft", False) is True,
        )
        texts = (entry.key, entry.encoder, *entry.requirements, *(entry.product or ()))
        if not all(isinstance(item, str) for item in texts):
            raise TypeError("key, encoder and requirements are text")
        check_entry(entry.base, entry.environment, entry.bytecode)
        return entry

    def check(self, inputs: LockInputs) -> None:
        """Raises InputError lock-mismatch, naming the requirements that came and went, when made for others."""
        gone = sorted(set(self.requirements) - set(inputs.requirements))
        new = sorted(set(inputs.requirements) - set(self.requirements))
        if not gone and not new:
            return
        changes = [f"no longer asked for: {', '.join(gone)}"] if gone else []
        changes += [f"newly asked for: {', '.join(new)}"] if new else []
        raise InputError(
            "lock-mismatch",
            f"The lock ({self.key}) was made for other requirements; {'; '.join(changes)}.",
            "Lock again with --update-lock, or give the lock that belongs to this artifact with --lock.",
        )


@dataclass(frozen=True)
class LockFile:
    """All entries of one file, by key. `closed`: the user named the file, so to ask for what it has no entry for is an
    error."""

    entries: Mapping[str, LockEntry]
    path: Path | None = field(default=None, compare=False)
    closed: bool = field(default=False, compare=False)

    @classmethod
    def read(cls, path: Path, *, closed: bool = False) -> LockFile:
        """The file's entries; none, and not closed, where it does not exist. Raises InputError lock-invalid."""
        try:
            data = json.loads(path.read_text("utf-8"))
            if not isinstance(data, dict) or data.get("schema") != LOCK_SCHEMA:
                raise unreadable(path, data, LOCK_SCHEMA, __version__)
            items = data["entries"]
            entries = [_read_entry(item, number) for number, item in enumerate(items, 1)]
        except FileNotFoundError:
            return cls({}, path)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            reason = f"the field {error} is missing" if isinstance(error, KeyError) else str(error)
            raise InputError(
                "lock-invalid", f"The lock file {path} cannot be read: {reason}.", "Make it anew with --update-lock."
            ) from error
        return cls({entry.key: entry for entry in entries}, path, closed)

    def find(self, inputs: LockInputs) -> LockEntry | None:
        """The entry for this way of building. Raises InputError lock-mismatch, naming the nearest one and what differs,
        where a closed file has none."""
        entry = self.entries.get(inputs.key)
        if entry is None and self.closed:
            raise no_entry(self.path, inputs.key, list(self.entries))
        return entry

    def require(self) -> LockFile:
        """Itself as a closed file. Raises InputError lock-mismatch where the file does not exist or is empty."""
        if not self.entries:
            raise no_lock(self.path)
        return replace(self, closed=True)

    def with_entry(self, entry: LockEntry) -> LockFile:
        """A copy with one entry added or replaced."""
        return replace(self, entries={**self.entries, entry.key: entry})

    @property
    def text(self) -> str:
        """What the file holds."""
        value = {
            "schema": LOCK_SCHEMA,
            "mpack": __version__,
            "entries": [self.entries[key].to_json() for key in sorted(self.entries)],
        }
        return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    def write(self, path: Path) -> None:
        """Writes the file whole or not at all. Raises EnvironmentFault disk-full or disk-unwritable."""
        text = self.text
        temporary = None
        try:
            if path.exists() and path.read_bytes() == text.encode():
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                "w", encoding="utf-8", dir=path.parent, prefix=path.name, suffix=".tmp", delete=False
            ) as stream:
                temporary = Path(stream.name)
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        except OSError as error:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
            raise disk_fault(error, f"Writing the lock file {path}", "Name another with --lock FILE.") from error


def requirement_lines(requirements: Iterable[Requirement]) -> tuple[str, ...]:
    """The requirement lines of a spec, sorted, each once: what a lock is compared by."""
    return tuple(sorted({item.line.strip() for item in requirements}))


def _read_entry(item: Any, number: int) -> LockEntry:
    """Raises ValueError that names the entry and what is wrong with it."""
    try:
        return LockEntry.from_json(item)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(entry_fault(item, number, error)) from error
