"""Copying objects from one store to another: by content, resumable, checked, in parallel.

Nothing is deleted at the target. An object there that another hand wrote is not overwritten unless
that is asked for, and then only the version that was seen.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from model_store import residency
from model_store.errors import StoreError
from model_store.folder import FolderObjects
from model_store.journal import Done, Journal
from model_store.manifest import sha256_of
from model_store.objects import ConflictError, Entry, Objects, Transfer, conflict, damaged

Progress = Callable[[int, int, str], None]
SECONDS_BETWEEN_LINES = 0.5


@dataclass
class Synced:
    """What a sync did: keys by what became of them, and bytes of those that were copied."""

    copied: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    private: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    bytes: int = 0


def sync(
    source: Objects,
    target: Objects,
    journals: Path,
    *,
    parallel: int = 8,
    overwrite: bool = False,
    skip_private: bool = False,
    progress: Progress = lambda done, total, text: None,
) -> Synced:
    """Bring every object of `source` to `target`.

    Parameters
    ----------
    journals
        Folder of this machine where a sync notes what it has done; the next one goes on from there.
    parallel
        Objects at a time.
    overwrite
        Replace objects of the target that have another content and that no sync from `source` put
        there. Without it they are conflicts.
    skip_private
        Leave out what is labelled private, where it would leave the site.

    Raises
    ------
    ResidencyError
        Something is labelled private and the target is not at the site: nothing was sent.
    StoreError
        A store does not work. What has been done is noted.
    """
    if source.identity == target.identity:
        raise StoreError(f"{source.address} is both source and target: name two places.")
    with Journal.of(journals, source.identity, target.identity) as journal:
        entries = list(source.entries())
        if not entries and not isinstance(source, FolderObjects):
            raise StoreError(f"There are no objects under {source.address}: correct the address.")
        job = _Job(source, target, journal, journals, overwrite, progress)
        private = set() if target.on_site else _private(source, entries)
        if private and not skip_private:
            first = min(private)
            more = f" (and {len(private) - 1} more)" if len(private) > 1 else ""
            residency.refuse(f"{first}{more} in {source.address}", target.address)
        job.result.private = sorted(private)
        job.run([entry for entry in entries if entry.key not in private], parallel)
        return job.result


class _Job:
    """One sync at work: its two stores, what it knows of them, and how far it is."""

    def __init__(
        self,
        source: Objects,
        target: Objects,
        journal: Journal,
        journals: Path,
        overwrite: bool,
        progress: Progress,
    ) -> None:
        self.source, self.target, self.journal = source, target, journal
        # A target on this disk takes over what was fetched, instead of copying it.
        self.scratch = (
            target.incoming if isinstance(target, FolderObjects) else journals / "incoming"
        )
        self.overwrite = overwrite
        self.progress = progress
        self.result = Synced()
        self.stopped = threading.Event()
        self.lock = threading.Lock()
        self.total, self.moved, self.told = 0, 0, 0.0

    def run(self, entries: list[Entry], parallel: int) -> None:
        self.there = {entry.key: entry for entry in self.target.entries()}
        self.known = self.journal.done()
        self.total = sum(entry.size for entry in entries)
        # Labels first: a crash in between must not leave something private without its label.
        entries.sort(key=lambda entry: not entry.key.endswith(residency.MARK))
        labels = [entry for entry in entries if entry.key.endswith(residency.MARK)]
        with ThreadPoolExecutor(parallel) as pool:
            for batch in (labels, entries[len(labels) :]):
                futures = [pool.submit(self.copy, entry) for entry in batch]
                try:
                    wait(futures, return_when=FIRST_EXCEPTION)
                    for future in futures:
                        if future.done():
                            future.result()
                except BaseException:
                    self.stopped.set()
                    pool.shutdown(wait=True, cancel_futures=True)
                    raise
        self.tell(final=True)
        for keys in (self.result.copied, self.result.same, self.result.conflicts):
            keys.sort()

    def copy(self, entry: Entry) -> None:
        """Make one object the same at the target, unless it is so or somebody else wrote it."""
        there, known = self.there.get(entry.key), self.known.get(entry.key)
        if known and there and (known.source, known.target) == (entry.token, there.token):
            return self.count(self.result.same, entry, entry.size)
        try:
            file, sha256 = self.content(self.source, entry)
            if there and there.size == entry.size and self.hash_there(there) == sha256:
                self.journal.note(entry.key, Done(entry.token, there.token, sha256))
                return self.count(self.result.same, entry, entry.size)
            ours = known is not None and there is not None and known.target == there.token
            if there and not ours and not self.overwrite:
                return self.count(self.result.conflicts, entry, entry.size)
            file = file or self.fetched(self.source, entry, sha256)
            transfer = _Copy(self, f"{entry.key}\0{sha256}")
            token = self.target.put(
                file, entry.key, sha256, there.token if there else None, transfer
            )
        except ConflictError:
            return self.count(self.result.conflicts, entry, entry.size)
        self.drop(self.source, file)
        self.journal.note(entry.key, Done(entry.token, token, sha256))
        with self.lock:
            self.result.bytes += entry.size
        self.count(self.result.copied, entry, entry.size - transfer.sent)

    def content(self, objects: Objects, entry: Entry) -> tuple[Path | None, str]:
        """SHA-256 of an object, and the file that holds its content where there is one."""
        sha256 = objects.sha256(entry.key)
        if isinstance(objects, FolderObjects):
            return objects.root / entry.key, sha256
        if sha256:
            return None, sha256
        file = self.fetched(objects, entry)
        return file, sha256_of(file)

    def fetched(self, objects: Objects, entry: Entry, sha256: str | None = None) -> Path:
        """A local copy of one version of an object, which goes on where an earlier one ended."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        name = f"{objects.identity}\0{entry.key}\0{entry.token}"
        file = self.scratch / hashlib.sha256(name.encode()).hexdigest()
        if not objects.fetch(entry.key, file, entry.token, _Stop(self)):
            raise conflict(objects.address, entry.key)
        if file.stat().st_size != entry.size or (sha256 and sha256_of(file) != sha256):
            file.unlink()
            raise damaged(objects.address, entry.key)
        return file

    def drop(self, objects: Objects, file: Path | None) -> None:
        """Remove a local copy that is needed no more."""
        if file and not isinstance(objects, FolderObjects):
            file.unlink(missing_ok=True)

    def hash_there(self, entry: Entry) -> str:
        file, sha256 = self.content(self.target, entry)
        self.drop(self.target, file)
        return sha256

    def count(self, keys: list[str], entry: Entry, size: int) -> None:
        keys.append(entry.key)
        self.advance(size)

    def advance(self, size: int) -> None:
        with self.lock:
            self.moved += size
            self.tell()

    def tell(self, *, final: bool = False) -> None:
        now = time.monotonic()
        if final or now - self.told >= SECONDS_BETWEEN_LINES:
            self.told = now
            text = f"{self.moved / 1e6:,.1f} of {self.total / 1e6:,.1f} MB"
            self.progress(self.moved, self.total, text)


class _Stop(Transfer):
    """Ends a transfer between two parts when the sync was stopped."""

    def __init__(self, job: _Job) -> None:
        self.job = job

    def moved(self, size: int) -> None:
        if self.job.stopped.is_set():
            raise StoreError("The sync was stopped.")


class _Copy(_Stop):
    """An upload that tells how far it is and keeps its note in the journal."""

    def __init__(self, job: _Job, content: str) -> None:
        super().__init__(job)
        self.content = content
        self.upload = job.journal.upload(content)
        self.sent = 0

    def moved(self, size: int) -> None:
        super().moved(size)
        self.sent += size
        self.job.advance(size)

    def remember(self, upload: str | None) -> None:
        self.job.journal.remember(self.content, upload)


def _private(source: Objects, entries: list[Entry]) -> set[str]:
    """Keys that must stay at the site."""
    keys = {entry.key for entry in entries}
    return keys if residency.is_marked(source) else residency.private_keys(keys)
