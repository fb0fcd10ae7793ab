"""Objects on Google Cloud Storage."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import google_crc32c
from google.api_core.exceptions import (
    GoogleAPIError,
    NotFound,
    PreconditionFailed,
    RequestRangeNotSatisfiable,
)
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption
from requests import RequestException

from model_store.bucket import SHA256, BucketObjects
from model_store.errors import StoreError
from model_store.objects import (
    OWN,
    Entry,
    Transfer,
    changed,
    conflict,
    damaged,
    disk_failed,
    part_size,
    size_of,
)

CONTENT = "application/octet-stream"
MOST_PARTS = 32  # that one compose request takes
CHUNK = 2**20


class GcsObjects(BucketObjects):
    """A version's token is its generation; writes carry a generation match.

    A large object is composed of parts, objects of its own until then: they say by themselves what
    an upload that was killed has brought over. With an `endpoint`, an emulator, no credentials are
    looked for.
    """

    on_site = False

    def __init__(self, bucket: str, prefix: str, *, endpoint: str | None = None) -> None:
        super().__init__("gs", bucket, prefix, endpoint=endpoint)
        with self._sentences():
            if endpoint:
                client = storage.Client(
                    project="emulator",
                    credentials=AnonymousCredentials(),
                    client_options={"api_endpoint": endpoint},
                )
            else:
                client = storage.Client()
        self.bucket = client.bucket(bucket)

    def _read(self, key: str) -> tuple[bytes, str] | None:
        with self._sentences():
            blob = self.bucket.get_blob(self.prefix + key)
            if blob is None:
                return None
            # Pinned: between the two requests the object may be replaced.
            try:
                data = blob.download_as_bytes(if_generation_match=blob.generation)
            except (NotFound, PreconditionFailed):
                return self._read(key)
            return data, str(blob.generation)

    def swap(self, key: str, data: bytes, token: str | None) -> bool:
        with self._sentences():
            try:
                self.bucket.blob(self.prefix + key).upload_from_string(
                    data, content_type=CONTENT, if_generation_match=_generation(token)
                )
                return True
            except PreconditionFailed:
                return False

    def entry(self, key: str) -> Entry | None:
        with self._sentences():
            blob = self.bucket.get_blob(self.prefix + key)
            return None if blob is None else self._entry(blob)

    def _pages(self, prefix: str) -> Iterator[list[Entry]]:
        with self._sentences():
            for page in self.bucket.list_blobs(prefix=self.prefix + prefix).pages:
                found = map(self._entry, page)
                yield [entry for entry in found if self._listed(entry.key)]

    def sha256(self, key: str) -> str | None:
        with self._sentences():
            blob = self.bucket.get_blob(self.prefix + key)
            return blob and (blob.metadata or {}).get(SHA256)

    def put(
        self,
        file: Path,
        key: str,
        sha256: str,
        token: str | None,
        transfer: Transfer | None = None,
    ) -> str:
        size = part_size(file.stat().st_size, MOST_PARTS)
        checksums, whole = _checksums(file, sha256, size)
        blob = self.bucket.blob(self.prefix + key)
        blob.metadata, blob.content_type = {SHA256: sha256}, CONTENT
        transfer = transfer or Transfer()
        with self._sentences():
            try:
                if len(checksums) <= 1:
                    blob.upload_from_filename(
                        str(file),
                        content_type=CONTENT,
                        if_generation_match=_generation(token),
                        checksum="crc32c",
                    )
                    transfer.moved(file.stat().st_size)
                else:
                    parts = self._put_parts(file, sha256, size, checksums, transfer)
                    # Not every server heeds the condition of the next call: ask before as well.
                    if not self.is_version(key, token):
                        raise conflict(self.address, key)
                    blob.compose(parts, if_generation_match=_generation(token))
                    self.bucket.delete_blobs(parts, on_error=lambda gone: None)
            except PreconditionFailed:
                raise conflict(self.address, key) from None
            if blob.crc32c != whole:
                raise damaged(self.address, key)
            return str(blob.generation)

    def _fetch(
        self, key: str, file: Path, token: str | None, transfer: Transfer | None
    ) -> bool:
        have = size_of(file)
        with self._sentences():
            try:
                with file.open("ab") as copy:
                    self.bucket.blob(self.prefix + key).download_to_file(
                        copy,
                        start=have or None,
                        if_generation_match=int(token) if token else None,
                    )
                    if transfer:
                        transfer.moved(copy.tell() - have)
                return True
            except NotFound:
                return False
            except RequestRangeNotSatisfiable:
                return True  # nothing is left to fetch
            except PreconditionFailed:
                raise conflict(self.address, key) from None

    def remove(self, key: str) -> None:
        with self._sentences():
            self.bucket.delete_blobs([self.prefix + key], on_error=lambda gone: None)

    def _put_parts(
        self, file: Path, sha256: str, size: int, checksums: list[str], transfer: Transfer
    ) -> list[storage.Blob]:
        folder = f"{self.prefix}{OWN}incoming/{sha256}-{size}/"
        arrived = {blob.name: blob.crc32c for blob in self.bucket.list_blobs(prefix=folder)}
        parts = [self.bucket.blob(f"{folder}{number:02}") for number in range(len(checksums))]
        with file.open("rb") as source:
            for number, (part, checksum) in enumerate(zip(parts, checksums)):
                source.seek(number * size)
                length = min(size, file.stat().st_size - number * size)
                if arrived.get(part.name) != checksum:
                    part.upload_from_file(
                        source, size=length, content_type=CONTENT, checksum="crc32c"
                    )
                    if part.crc32c != checksum:
                        raise changed(file)
                transfer.moved(length)
        return parts

    def _entry(self, blob: storage.Blob) -> Entry:
        key = blob.name.removeprefix(self.prefix)
        return Entry(key, blob.updated, blob.size, str(blob.generation))

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        try:
            yield
        except GoogleAuthError as error:
            raise StoreError(
                f"There are no Google credentials for the store {self.address}: run `gcloud auth "
                f"application-default login` or set GOOGLE_APPLICATION_CREDENTIALS ({error})."
            ) from None
        except NotFound:
            raise StoreError(
                f"The bucket gs://{self.bucket_name} does not exist: create it or correct the "
                "address."
            ) from None
        except DataCorruption:
            raise damaged(self.address, "An object") from None
        except (GoogleAPIError, RequestException) as error:
            raise StoreError(f"The store {self.address} does not work: {error}.") from None
        except OSError as error:
            raise disk_failed(error) from None


def _generation(token: str | None) -> int:
    return int(token) if token else 0


def _checksums(file: Path, sha256: str, size: int) -> tuple[list[str], str]:
    """CRC32C of each part and of the whole, as GCS writes them; the content must have the hash."""
    whole, digest, parts = google_crc32c.Checksum(), hashlib.sha256(), []
    with file.open("rb") as source:
        while True:
            part, left = google_crc32c.Checksum(), size
            while left and (data := source.read(min(CHUNK, left))):
                left -= len(data)
                for checksum in (whole, digest, part):
                    checksum.update(data)
            if left == size:
                break
            parts.append(b64encode(part.digest()).decode())
    if digest.hexdigest() != sha256:
        raise changed(file)
    return parts, b64encode(whole.digest()).decode()
