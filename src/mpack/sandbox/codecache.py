"""Compiled files by what they were compiled from: two environments that share a package compile it once.

An entry is keyed by the base image's layers (its interpreter did it), the interpreter's version, the program that
compiles and its options, the source's path in the image and its SHA-256, and it is kept with its own SHA-256. All are
in one SQLite file: a build reads and writes a thousand at a time.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

from mpack.pruning import Prunable

_TABLE = "code (key TEXT PRIMARY KEY, used REAL, sha256 BLOB, code BLOB) WITHOUT ROWID"
#: Seconds to wait for another process that writes.
_PATIENCE = 30.0


class CodeCache:
    """The file `directory`/code.sqlite; any number of processes may read and write it at once."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "code.sqlite"

    @classmethod
    def default(cls) -> CodeCache:
        """The user's."""
        from mpack.paths import cache_dir

        return cls(cache_dir() / "bytecode")

    def get(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Those of the compiled files that are there. Reading an entry keeps it from being pruned."""
        found: dict[str, bytes] = {}
        with suppress(sqlite3.Error, OSError), self._open() as database:
            for key in keys:
                row = database.execute("SELECT sha256, code FROM code WHERE key = ?", (key,)).fetchone()
                if row is not None and isinstance(row[1], bytes) and hashlib.sha256(row[1]).digest() == row[0]:
                    found[key] = row[1]
            with database:
                now = time.time()
                database.executemany("UPDATE code SET used = ? WHERE key = ?", [(now, key) for key in found])
        return found

    def put(self, files: Mapping[str, bytes]) -> None:
        """Keeps compiled files. A cache that cannot be written only costs time: it is passed over."""
        now = time.time()
        rows = [(key, now, hashlib.sha256(code).digest(), code) for key, code in sorted(files.items())]
        with suppress(sqlite3.Error, OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._open() as database, database:
                database.executemany("INSERT OR REPLACE INTO code VALUES (?, ?, ?, ?)", rows)

    def entries(self) -> list[Prunable]:
        """What builds used, a build an entry: the files that it was the last to use."""
        with suppress(sqlite3.Error, OSError), self._open() as database, database:
            database.execute("DELETE FROM code WHERE typeof(used) <> 'real' OR typeof(code) <> 'blob'")
            rows = database.execute("SELECT used, SUM(LENGTH(code)) FROM code GROUP BY used").fetchall()
            return [Prunable(size, used, partial(self._remove, used)) for used, size in rows]
        return []

    def _remove(self, used: float) -> None:
        with suppress(sqlite3.Error, OSError), self._open() as database, database:
            database.execute("DELETE FROM code WHERE used = ?", (used,))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """The database. One that is damaged, or no longer of this shape, is deleted; the next that writes makes it."""
        if not self.path.parent.is_dir():
            raise FileNotFoundError(self.path)
        try:
            with closing(sqlite3.connect(self.path, timeout=_PATIENCE)) as database:
                database.execute("PRAGMA auto_vacuum = FULL")
                shape = database.execute("SELECT sql FROM sqlite_master WHERE name = 'code'").fetchone()
                if shape is None:
                    database.execute(f"CREATE TABLE IF NOT EXISTS {_TABLE}")
                elif shape[0] != f"CREATE TABLE {_TABLE}":
                    raise sqlite3.DatabaseError("the table has another shape")
                yield database
        except sqlite3.DatabaseError as error:
            if not isinstance(error, sqlite3.OperationalError):
                self.path.unlink(missing_ok=True)
            raise


def code_key(base: Sequence[str], python_version: str, program: str, path: str, sha256: str) -> str:
    """The key of one source: `base` are the diff ids of the base's layers, `program` is what compiles, with options."""
    return hashlib.sha256("\0".join([*base, python_version, program, path, sha256]).encode()).hexdigest()
