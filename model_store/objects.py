"""Keyed bytes in a folder, on S3 or on GCS: the few operations that models and syncs rest on."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from model_store.errors import StoreError

# Where a store keeps what is not whole yet; such keys are in no listing.
OWN = ".hybrid/"
# Objects up to this size go in one request, larger ones in parts of at least this size.
PART = 8 * 2**20


class ConflictError(StoreError):
    """An object is no longer the version that a write was meant to replace."""


@dataclass(frozen=True)
class Entry:
    """An object: its key, when it was written (UTC), its bytes, and a token of its version."""

    key: str
    modified: datetime
    size: int
    token: str


class Transfer:
    """What one copy reports and remembers; this one does neither.

    `upload` is what a store noted of an upload that did not end, None where there is none.
    """

    upload: str | None = None

    def moved(self, size: int) -> None:
        """`size` more bytes went over; may raise to stop between two parts."""

    def remember(self, upload: str | None) -> None:
        """Keep a note for the next attempt, or forget it."""


class Objects(ABC):
    """Objects under an address. Every method raises StoreError where the store does not work.

    Attributes
    ----------
    address
        What a user types for it.
    identity
        The same with the server that answers there.
    on_site
        Whether what is written here stays at the site.
    """

    address: str
    identity: str
    on_site: bool

    @abstractmethod
    def read(self, key: str) -> tuple[bytes, str] | None:
        """Content of a small object and a token of its version; None where there is none."""

    @abstractmethod
    def swap(self, key: str, data: bytes, token: str | None) -> bool:
        """Write if the version is still `token` (None: if absent); False if it is not."""

    @abstractmethod
    def entry(self, key: str) -> Entry | None:
        """One object; None where there is none."""

    @abstractmethod
    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """The objects whose key starts with `prefix`, however deep."""

    @abstractmethod
    def sha256(self, key: str) -> str | None:
        """SHA-256 in hex of an object, where it can be told without a download."""

    @abstractmethod
    def put(
        self,
        file: Path,
        key: str,
        sha256: str,
        token: str | None,
        transfer: Transfer | None = None,
    ) -> str:
        """Store a file whole or not at all, and check what arrived against its hash.

        Parameters
        ----------
        file
            Its content must hash to `sha256` (hex).
        token
            Version to replace; None: only if absent.
        transfer
            Keeps a note of what has arrived, so that a later call sends only the rest.

        Returns
        -------
        str
            Token of the new version.

        Raises
        ------
        ConflictError
            The object is another version by now; it is left as it is.
        StoreError
            The file changed meanwhile, or what arrived has another hash.
        """

    @abstractmethod
    def fetch(
        self, key: str, file: Path, token: str | None = None, transfer: Transfer | None = None
    ) -> bool:
        """Write an object to a file, after what the file has of it already; False if absent.

        Raises
        ------
        ConflictError
            The object is not of version `token`.
        """

    @abstractmethod
    def remove(self, key: str) -> None:
        """Remove an object, if it is there."""

    def unfinished(self, key: str) -> str | None:
        """The note (see `Transfer`) of an upload to `key` that did not end, where the store itself
        knows one. Only for keys that mean one content for ever."""
        return None

    def is_version(self, key: str, token: str | None) -> bool:
        """Whether an object is still version `token`; None: whether there is none."""
        now = self.entry(key)
        return (now.token if now else None) == token

    @abstractmethod
    def above(self) -> Iterator[Objects]:
        """The folders that this one lies in, the nearest first."""


def size_of(file: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    return file.stat().st_size if file.exists() else 0


def part_size(size: int, most: int) -> int:
    """Bytes of each part where an upload may have `most` parts: whole MiB, at least `PART`."""
    mib = 2**20
    return max(PART, -(-size // most // mib) * mib)


def changed(file: Path) -> StoreError:
    """For a file whose content is not what was hashed."""
    return StoreError(
        f"{file} changed while it was stored: try again when nothing writes to it."
    )


def conflict(address: str, key: str) -> ConflictError:
    """For a write that somebody else came before."""
    return ConflictError(
        f"{key} in {address} was changed by somebody else meanwhile: look at it and decide again."
    )


def disk_failed(error: OSError) -> StoreError:
    """For a file of this machine that cannot be read or written, as on a full disk."""
    what = f"{error.filename} does" if error.filename else "The files of this machine do"
    return StoreError(f"{what} not work: {os.strerror(error.errno or 0)}.")


def damaged(address: str, key: str) -> StoreError:
    """For an object that did not arrive as it was sent."""
    return StoreError(f"{key} of {address} did not arrive whole: try again.")
