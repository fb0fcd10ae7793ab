"""The model store in a folder of this machine or of a shared file system."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from model_store.errors import StoreError
from model_store.store import Entry, Store, sync_folder

LOCK_SECONDS = 30.0


class FolderStore(Store):
    """Objects are files under `root`; a version's token is the hash of its content."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def _read(self, key: str) -> tuple[bytes, str] | None:
        with self._sentences():
            try:
                data = (self.root / key).read_bytes()
            except FileNotFoundError:
                return None
        return data, hashlib.sha256(data).hexdigest()

    def _swap(self, key: str, data: bytes, token: str | None) -> bool:
        from filelock import FileLock, Timeout

        with self._sentences():
            self.root.mkdir(parents=True, exist_ok=True)
            try:
                # The kernel drops the lock of a process that dies.
                with FileLock(self.root / "lock", timeout=LOCK_SECONDS):
                    found = self._read(key)
                    if (found[1] if found else None) != token:
                        return False
                    with self._replacing(key) as temporary:
                        temporary.write_bytes(data)
            except Timeout:
                raise StoreError(
                    f"Another process holds {self.root / 'lock'} for {LOCK_SECONDS:.0f} s: "
                    "end it, then try again."
                ) from None
        return True

    def _size(self, key: str) -> int | None:
        with self._sentences():
            try:
                return (self.root / key).stat().st_size
            except FileNotFoundError:
                return None

    def _upload(self, file: Path, key: str) -> None:
        with self._sentences(), self._replacing(key) as temporary:
            shutil.copyfile(file, temporary)

    def _download(self, key: str, file: Path) -> bool:
        with self._sentences():
            if not (self.root / key).is_file():
                return False
            shutil.copyfile(self.root / key, file)
            return True

    def _entries(self, prefix: str) -> Iterator[Entry]:
        folder, _, start = prefix.rpartition("/")
        with self._sentences():
            for path in sorted((self.root / folder).glob("*")):
                if path.name.startswith(start):
                    modified = datetime.fromtimestamp(path.stat().st_mtime, UTC)
                    yield Entry(f"{folder}/{path.name}", modified)

    @contextmanager
    def _replacing(self, key: str) -> Iterator[Path]:
        """Give a file to write to; it is then synced and takes the key's place."""
        path = self.root / key
        incoming = self.root / "incoming"
        path.parent.mkdir(parents=True, exist_ok=True)
        incoming.mkdir(exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=incoming)
        temporary = Path(name)
        try:
            yield temporary
            os.fchmod(descriptor, 0o644)
            os.fsync(descriptor)
            os.replace(temporary, path)
            sync_folder(path.parent)
        finally:
            os.close(descriptor)
            temporary.unlink(missing_ok=True)

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(f"The model store {self.root} does not work: {error}.") from None
