"""What a sync has done so far, on the disk of the machine that runs it."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from model_store.errors import StoreError


@dataclass(frozen=True)
class Done:
    """Versions of an object at source and target when both had the same content."""

    source: str
    target: str
    sha256: str


class Journal:
    """Objects that are the same on both sides, and uploads that did not end."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        # What a power cut takes away is only compared again.
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._write(
            "CREATE TABLE IF NOT EXISTS done"
            " (key TEXT PRIMARY KEY, source TEXT, target TEXT, sha256 TEXT)"
        )
        self._write("CREATE TABLE IF NOT EXISTS uploads (content TEXT PRIMARY KEY, upload TEXT)")

    @classmethod
    @contextmanager
    def of(cls, folder: Path, source: str, target: str) -> Iterator[Journal]:
        """Open the journal of one source and target; a process at a time.

        Raises
        ------
        StoreError
            Another process syncs the same two, or the file cannot be used.
        """
        name = hashlib.sha256(f"{source}\0{target}".encode()).hexdigest()[:16]
        file = folder / f"{name}.sqlite"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            os.close(os.open(file, os.O_CREAT, 0o600))
            with (
                FileLock(folder / f"{name}.lock", timeout=0),
                closing(sqlite3.connect(file, check_same_thread=False)) as connection,
            ):
                yield cls(connection)
        except Timeout:
            raise StoreError(
                f"Another sync from {source} to {target} is at work: let it end first."
            ) from None
        except (OSError, sqlite3.Error) as error:
            raise StoreError(
                f"The journal {file} cannot be used: {error}; without it the next sync compares "
                "all objects again."
            ) from None

    def done(self) -> dict[str, Done]:
        """The objects that were the same, by key."""
        rows = self._connection.execute("SELECT key, source, target, sha256 FROM done")
        return {key: Done(*rest) for key, *rest in rows}

    def note(self, key: str, done: Done) -> None:
        """An object is the same on both sides."""
        self._write(
            "INSERT OR REPLACE INTO done VALUES (?, ?, ?, ?)",
            (key, done.source, done.target, done.sha256),
        )

    def upload(self, content: str) -> str | None:
        """The note on an upload that did not end."""
        with self._lock:
            row = self._connection.execute(
                "SELECT upload FROM uploads WHERE content = ?", (content,)
            ).fetchone()
        return row and row[0]

    def remember(self, content: str, upload: str | None) -> None:
        """Keep the note on an upload, or forget it."""
        if upload is None:
            self._write("DELETE FROM uploads WHERE content = ?", (content,))
        else:
            self._write("INSERT OR REPLACE INTO uploads VALUES (?, ?)", (content, upload))

    def _write(self, statement: str, values: tuple[str, ...] = ()) -> None:
        with self._lock, self._connection:
            self._connection.execute(statement, values)
