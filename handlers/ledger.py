"""How many vectors of each of its users a private site has sent, with which noise, up to a limit.

A vector is counted before it goes, so that no fewer are counted than were sent. The same vector of a
user has the same noise while the process lives and tells nothing new, so it counts once; after the
next start it has other noise, and counts again.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import defaultdict
from hashlib import sha256
from pathlib import Path

# What a request may wait for another process that counts.
WAIT_SECONDS = 2.0
# Each row: of this user so many vectors were sent with that noise (a multiple of `clip`).
TABLE = """
CREATE TABLE IF NOT EXISTS sent (
    user TEXT NOT NULL, noise REAL NOT NULL, vectors INTEGER NOT NULL, PRIMARY KEY (user, noise)
)
"""
ADD = """
INSERT INTO sent VALUES (?, ?, 1) ON CONFLICT (user, noise) DO UPDATE SET vectors = vectors + 1
"""


class MayNotGo(Exception):
    """A vector must stay at the site; the sentence says why and names no user."""


class Ledger:
    """Counts in a file that stays when the server ends.

    Parameters
    ----------
    file
        An SQLite database, which only its owner may read, as it names users; made if there is none.
    most
        Vectors of one user that may go, with whatever noise.
    noise
        With which they go.

    Raises
    ------
    ValueError
        The file is no ledger, or cannot be written.
    """

    def __init__(self, file: Path, most: int, noise: float) -> None:
        self.most, self.noise = most, noise
        self._counted: dict[str, set[bytes]] = defaultdict(set)
        self._lock = threading.Lock()
        try:
            file.touch(mode=0o600)
            self._rows = sqlite3.connect(
                file, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._rows.execute(TABLE)
        except (OSError, sqlite3.Error) as error:
            raise ValueError(f"{file} cannot be used as a ledger: {error}") from None

    def count(self, user: str | None, vector: bytes) -> None:
        """Count a vector that is about to go.

        Raises
        ------
        MayNotGo
            It is of nobody who is named, of a user of whom enough went, or cannot be counted.
        """
        if user is None:
            raise MayNotGo("vectors are limited by user, and the request names none")
        digest = sha256(vector).digest()
        with self._lock:
            if digest in self._counted[user]:
                return
            try:
                self._add(user)
            except sqlite3.Error as error:
                raise MayNotGo(f"the ledger does not count ({error})") from None
            self._counted[user].add(digest)

    def _add(self, user: str) -> None:
        self._rows.execute("BEGIN IMMEDIATE")
        try:
            (sent,) = self._rows.execute(
                "SELECT COALESCE(SUM(vectors), 0) FROM sent WHERE user = ?", (user,)
            ).fetchone()
            if sent >= self.most:
                raise MayNotGo(f"{sent} vectors of this user went, and no more may")
            self._rows.execute(ADD, (user, self.noise))
            self._rows.execute("COMMIT")
        finally:
            if self._rows.in_transaction:
                self._rows.execute("ROLLBACK")
