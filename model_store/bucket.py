"""What the objects of S3 and of GCS have in common: a bucket, and a prefix in it."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path

from model_store.objects import OWN, Entry, Objects, Transfer, size_of
from model_store.patience import SECONDS, patiently

SHA256 = "hybrid-sha256"


class BucketObjects(Objects):
    """Objects whose names begin with `prefix`, which is empty or ends with a slash."""

    def __init__(self, scheme: str, bucket: str, prefix: str, *, endpoint: str | None) -> None:
        self.scheme = scheme
        self.bucket_name = bucket
        self.endpoint = endpoint
        self.patience = SECONDS
        self._move_to(prefix)

    @property
    def identity(self) -> str:
        return f"{self.address} at {self.endpoint}" if self.endpoint else self.address

    def read(self, key: str) -> tuple[bytes, str] | None:
        return patiently(lambda: self._read(key), self.address, seconds=self.patience)

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        pages = self._pages(prefix)
        while True:
            page = patiently(lambda: next(pages, None), self.address, seconds=self.patience)
            if page is None:
                return
            yield from page

    def fetch(
        self, key: str, file: Path, token: str | None = None, transfer: Transfer | None = None
    ) -> bool:
        return patiently(
            lambda: self._fetch(key, file, token, transfer),
            self.address,
            lambda: size_of(file),
            seconds=self.patience,
        )

    @abstractmethod
    def _read(self, key: str) -> tuple[bytes, str] | None:
        """What `read` does, however long it takes; so with the next two."""

    @abstractmethod
    def _pages(self, prefix: str) -> Iterator[list[Entry]]: ...

    @abstractmethod
    def _fetch(
        self, key: str, file: Path, token: str | None, transfer: Transfer | None
    ) -> bool: ...

    def above(self) -> Iterator[Objects]:
        folders = self.prefix.rstrip("/").split("/") if self.prefix else []
        for length in reversed(range(len(folders))):
            outer = copy.copy(self)
            outer._move_to("/".join(folders[:length]))
            yield outer

    def _move_to(self, prefix: str) -> None:
        self.prefix = f"{prefix}/" if prefix else ""
        self.address = f"{self.scheme}://{self.bucket_name}/{prefix}"

    @staticmethod
    def _listed(key: str) -> bool:
        # A name that ends with a slash is what consoles make to show an empty folder.
        return not key.startswith(OWN) and not key.endswith("/") and key != ""
