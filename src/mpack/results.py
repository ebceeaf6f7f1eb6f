"""Packagings and what came of them: one SQLite file, which any number of processes may read and write at once.

A run is written down before it begins and again when it ends. While it lasts its process holds a lock on the byte of
that number in a file beside, so that one whose process is gone, however it went, is known for what it is: `unknown`.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import field
from datetime import datetime, timezone
from io import BufferedRandom
from pathlib import Path
from typing import Any

from mpack.errors import EnvironmentFault
from mpack.records import dataclass

RUNNING, SUCCEEDED, FAILED, UNKNOWN, NO_ARTIFACT = "running", "succeeded", "failed", "unknown", "artifact_not_found"
_SCHEMA = 1
_TABLES = """
CREATE TABLE runs (
  number INTEGER PRIMARY KEY AUTOINCREMENT, packaging TEXT NOT NULL, state TEXT NOT NULL, started TEXT NOT NULL,
  finished TEXT, facts TEXT NOT NULL, document TEXT NOT NULL, log TEXT NOT NULL);
CREATE INDEX by_packaging ON runs (packaging, number);
"""
_COLUMNS = "number, packaging, state, started, finished, facts, document"
#: Seconds to wait for another process that writes.
_PATIENCE = 30.0


@dataclass(frozen=True)
class Run:
    """One packaging run. Times are UTC, ISO 8601; `facts` is what `Recording.finish` was told."""

    number: int
    packaging: str
    state: str
    started: str
    finished: str | None
    facts: Mapping[str, Any] = field(repr=False)
    document: Mapping[str, Any] = field(repr=False)


class Recording:
    """A run that is under way: its process holds the run's lock until `finish` or its own end."""

    def __init__(self, results: Results, number: int, lock: BufferedRandom) -> None:
        self._results = results
        self.number = number
        self._lock = lock

    def finish(self, state: str, facts: Mapping[str, Any], log: str) -> None:
        """Writes down how it ended. Raises as `Results`."""
        with closing(self._lock), self._results._open() as database, database:
            database.execute(
                "UPDATE runs SET state = ?, finished = ?, facts = ?, log = ? WHERE number = ?",
                (state, _now(), json.dumps(facts), log, self.number),
            )


class Results:
    """The file `directory`/results.sqlite.

    Every method raises EnvironmentFault: store-corrupt for a file that is damaged or of a newer mpack, disk-full,
    disk-unwritable.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "results.sqlite"
        self._locks = directory / "results.lock"

    @classmethod
    def default(cls) -> Results:
        """The user's."""
        from mpack.paths import state_dir

        return cls(state_dir())

    def begin(self, packaging: str, document: Mapping[str, Any], facts: Mapping[str, Any]) -> Recording:
        """Writes down that a run begins, with what is known of it."""
        with self._open(make=True) as database, database:
            row = (packaging, RUNNING, _now(), json.dumps(facts), json.dumps(document), "")
            number = database.execute(
                "INSERT INTO runs (packaging, state, started, facts, document, log) VALUES (?, ?, ?, ?, ?, ?)", row
            ).lastrowid
            assert number is not None
            lock = self._locks.open("r+b")
            # Before the row is there for others to see.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        return Recording(self, number, lock)

    def latest(self, packaging: str) -> Run | None:
        """The last run of a packaging."""
        found = self.runs(1, packaging)
        return found[0] if found else None

    def runs(self, limit: int, packaging: str | None = None) -> list[Run]:
        """The newest runs, of one packaging or of all, newest first."""
        if packaging is None:
            return self._select("ORDER BY number DESC LIMIT ?", limit)
        return self._select("WHERE packaging = ? ORDER BY number DESC LIMIT ?", packaging, limit)

    def packagings(self, limit: int) -> list[Run]:
        """The last run of each packaging, newest first."""
        newer = "SELECT 1 FROM runs AS newer WHERE newer.packaging = runs.packaging AND newer.number > runs.number"
        return self._select(f"WHERE NOT EXISTS ({newer}) ORDER BY number DESC LIMIT ?", limit)

    def log(self, packaging: str) -> str | None:
        """What the last run of a packaging said."""
        with self._reading() as database:
            select = "SELECT log FROM runs WHERE packaging = ? ORDER BY number DESC LIMIT 1"
            row = database.execute(select, (packaging,)).fetchone() if database else None
            return None if row is None else str(row[0])

    def delete(self, packaging: str) -> int:
        """Forgets all runs of a packaging; how many there were."""
        if not self._begun():
            return 0
        with self._open() as database, database:
            return database.execute("DELETE FROM runs WHERE packaging = ?", (packaging,)).rowcount

    def _select(self, which: str, *values: Any) -> list[Run]:
        statement = f"SELECT {_COLUMNS} FROM runs {which}"  # noqa: S608 - of constants
        with self._reading() as database:
            rows = database.execute(statement, values).fetchall() if database else []
            try:
                return [self._run(*row) for row in rows]
            except (ValueError, TypeError) as error:
                raise self._damaged(str(error)) from error

    def _run(self, number: int, packaging: str, state: str, *rest: Any) -> Run:
        started, finished, facts, document = rest
        if state == RUNNING and not self._under_way(number):
            state = UNKNOWN
        return Run(number, packaging, state, started, finished, json.loads(facts), json.loads(document))

    def _under_way(self, number: int) -> bool:
        """True if another process holds the run's lock (a process does not see its own)."""
        try:
            with self._locks.open("rb") as file:
                fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, number)
                return False
        except BlockingIOError:
            return True
        except OSError:
            return False

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """The database; None where nothing was packaged yet."""
        if not self._begun():
            yield None
            return
        with self._open() as database:
            yield database

    def _begun(self) -> bool:
        """False where there is no file, or one without content: its process ended while it made it."""
        return self.path.exists() and self.path.stat().st_size > 0

    @contextmanager
    def _open(self, *, make: bool = False) -> Iterator[sqlite3.Connection]:
        try:
            if make:
                self._make()
            with closing(sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=rw", _PATIENCE, uri=True)) as database:
                database.execute("PRAGMA synchronous = NORMAL")
                (version,) = database.execute("PRAGMA user_version").fetchone()
                if version != _SCHEMA:
                    raise self._damaged(f"its schema is {version}, and this mpack knows {_SCHEMA}")
                yield database
        except (sqlite3.Error, OSError) as error:
            raise self._fault(error) from error

    def _make(self) -> None:
        """The file with its tables, if there is none."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for path in (self._locks, self.path):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        with closing(sqlite3.connect(self.path, _PATIENCE, isolation_level=None)) as database:
            if database.execute("PRAGMA user_version").fetchone() == (0,):
                database.execute("BEGIN IMMEDIATE")
                if database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone() == (0,):
                    for statement in filter(str.strip, _TABLES.split(";")):
                        database.execute(statement)
                    database.execute(f"PRAGMA user_version = {_SCHEMA}")
                database.execute("COMMIT")
            # Another process may be in its way; the next one does it then.
            with suppress(sqlite3.OperationalError):
                database.execute("PRAGMA journal_mode = WAL")

    def _damaged(self, why: str) -> EnvironmentFault:
        return EnvironmentFault(
            "store-corrupt",
            f"The results of packagings in {self.path} cannot be read: {why}.",
            "Move the file away; the next packaging begins a new one.",
        )

    def _fault(self, error: sqlite3.Error | OSError) -> EnvironmentFault:
        text, doing = str(error), f"Using the results of packagings in {self.path}"
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            return self._damaged(text)
        if "disk is full" in text or getattr(error, "errno", None) in (28, 122):
            return EnvironmentFault("disk-full", f"{doing} failed: the disk is full.", "Free some space and try again.")
        hint = "Give this user the right to it; MPACK_HOME names another place for what mpack keeps."
        return EnvironmentFault("disk-unwritable", f"{doing} failed: {text}.", hint)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
