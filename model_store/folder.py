"""Objects in a folder of this machine or of a file system of the site."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from model_store.errors import StoreError
from model_store.manifest import sha256_of
from model_store.objects import OWN, Entry, Objects, Transfer, changed, conflict

LOCK_SECONDS = 30.0
CHUNK = 2**20


class FolderObjects(Objects):
    """Objects are files under `root`; a version's token is the file's number, time and size.

    A write takes the lock, compares the token and renames a finished file into place.
    """

    on_site = True

    def __init__(self, root: Path) -> None:
        self.root = root
        self.address = self.identity = str(root)
        self.incoming = root / OWN / "incoming"

    def read(self, key: str) -> tuple[bytes, str] | None:
        with self._sentences():
            try:
                with self._path(key).open("rb") as file:
                    return file.read(), _token(os.fstat(file.fileno()))
            except FileNotFoundError:
                return None

    def swap(self, key: str, data: bytes, token: str | None) -> bool:
        with self._sentences(), self._temporary() as temporary:
            temporary.write_bytes(data)
            return self._place(temporary, key, token) is not None

    def entry(self, key: str) -> Entry | None:
        with self._sentences():
            try:
                return _entry(key, self._path(key).stat())
            except FileNotFoundError:
                return None

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        folder = self.root / prefix.rpartition("/")[0]
        with self._sentences():
            for parent, folders, files in os.walk(folder, onerror=_raise):
                folders.sort()
                for name in sorted(files):
                    path = Path(parent, name)
                    key = path.relative_to(self.root).as_posix()
                    if not key.startswith(prefix) or key.startswith(OWN):
                        continue
                    if path.is_symlink() or not path.is_file():
                        raise StoreError(f"{path} is no regular file: move it elsewhere.")
                    yield _entry(key, path.stat())

    def sha256(self, key: str) -> str | None:
        with self._sentences():
            return sha256_of(self._path(key))

    def put(
        self,
        file: Path,
        key: str,
        sha256: str,
        token: str | None,
        transfer: Transfer | None = None,
    ) -> str:
        with self._sentences(), self._temporary() as temporary:
            if file.parent == self.incoming:
                os.replace(file, temporary)
            else:
                with file.open("rb") as source, temporary.open("wb") as copy:
                    while chunk := source.read(CHUNK):
                        copy.write(chunk)
                        if transfer:
                            transfer.moved(len(chunk))
            if sha256_of(temporary) != sha256:
                raise changed(file)
            placed = self._place(temporary, key, token)
        if placed is None:
            raise conflict(self.address, key)
        return placed

    def fetch(
        self, key: str, file: Path, token: str | None = None, transfer: Transfer | None = None
    ) -> bool:
        with self._sentences(file.parent):
            try:
                source = self._path(key).open("rb")
            except FileNotFoundError:
                return False
            with source, file.open("ab") as copy:
                if token and _token(os.fstat(source.fileno())) != token:
                    raise conflict(self.address, key)
                source.seek(copy.tell())
                shutil.copyfileobj(source, copy)
            return True

    def remove(self, key: str) -> None:
        with self._sentences():
            path = self._path(key)
            path.unlink(missing_ok=True)
            if path.parent.is_dir():
                sync_folder(path.parent)

    def above(self) -> Iterator[Objects]:
        yield from map(FolderObjects, self.root.absolute().parents)

    def _path(self, key: str) -> Path:
        # Names come from other stores, where they may be anything.
        path = PurePosixPath(key)
        if path.is_absolute() or ".." in path.parts or path.as_posix() != key or "\0" in key:
            raise StoreError(f"No file can have the name {key!r} in {self.root}: rename the object.")
        return self.root / path

    @contextmanager
    def _temporary(self) -> Iterator[Path]:
        self.incoming.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=self.incoming)
        os.close(descriptor)
        try:
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)

    def _place(self, temporary: Path, key: str, token: str | None) -> str | None:
        """Sync a file and rename it to the key if that is still version `token`: its token."""
        from filelock import FileLock, Timeout

        path = self._path(key)
        temporary.chmod(0o644)
        sync_file(temporary)
        try:
            # The kernel drops the lock of a process that dies.
            with FileLock(self.root / OWN / "lock", timeout=LOCK_SECONDS):
                if not self.is_version(key, token):
                    return None
                path.parent.mkdir(parents=True, exist_ok=True)
                os.replace(temporary, path)
                sync_folder(path.parent)
                return _token(path.stat())
        except Timeout:
            raise StoreError(
                f"Another process holds {self.root / OWN / 'lock'} for {LOCK_SECONDS:.0f} s: "
                "end it, then try again."
            ) from None

    @contextmanager
    def _sentences(self, written: Path | None = None) -> Iterator[None]:
        """`written` is a folder elsewhere that the block writes to."""
        try:
            yield
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise StoreError(
                    f"The disk of {written or self.root} is full: make room there, then try again."
                ) from None
            raise StoreError(f"The store {self.root} does not work: {error}.") from None


def sync_file(path: Path) -> None:
    """Bring a file's content to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Bring a folder's names to the disk, so that a rename survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _entry(key: str, found: os.stat_result) -> Entry:
    return Entry(key, datetime.fromtimestamp(found.st_mtime, UTC), found.st_size, _token(found))


def _token(found: os.stat_result) -> str:
    return f"{found.st_ino}-{found.st_mtime_ns}-{found.st_size}"


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
