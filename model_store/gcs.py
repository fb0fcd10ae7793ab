"""The model store on Google Cloud Storage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from google.api_core.exceptions import GoogleAPIError, NotFound, PreconditionFailed
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError
from google.cloud import storage
from requests import RequestException

from model_store.errors import StoreError
from model_store.store import Entry, Store


class GcsStore(Store):
    """Objects under a prefix of a bucket; a version's token is its generation.

    With an `endpoint`, an emulator, no credentials are looked for.
    """

    def __init__(self, bucket: str, prefix: str, *, endpoint: str | None = None) -> None:
        self.prefix = f"{prefix}/" if prefix else ""
        self.address = f"gs://{bucket}/{self.prefix}"
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

    def _swap(self, key: str, data: bytes, token: str | None) -> bool:
        with self._sentences():
            try:
                self.bucket.blob(self.prefix + key).upload_from_string(
                    data,
                    content_type="application/octet-stream",
                    if_generation_match=int(token) if token else 0,
                )
                return True
            except PreconditionFailed:
                return False

    def _size(self, key: str) -> int | None:
        with self._sentences():
            blob = self.bucket.get_blob(self.prefix + key)
            return None if blob is None else blob.size

    def _upload(self, file: Path, key: str) -> None:
        with self._sentences():
            self.bucket.blob(self.prefix + key).upload_from_filename(
                str(file), content_type="application/octet-stream"
            )

    def _download(self, key: str, file: Path) -> bool:
        with self._sentences():
            try:
                self.bucket.blob(self.prefix + key).download_to_filename(str(file))
                return True
            except NotFound:
                return False

    def _entries(self, prefix: str) -> Iterator[Entry]:
        with self._sentences():
            for blob in self.bucket.list_blobs(prefix=self.prefix + prefix):
                yield Entry(blob.name.removeprefix(self.prefix), blob.updated)

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        try:
            yield
        except GoogleAuthError as error:
            raise StoreError(
                "There are no Google credentials for the model store: run `gcloud auth "
                f"application-default login` or set GOOGLE_APPLICATION_CREDENTIALS ({error})."
            ) from None
        except NotFound:
            raise StoreError(
                f"The bucket of the model store {self.address} does not exist: create it or "
                "correct the address."
            ) from None
        except (GoogleAPIError, RequestException) as error:
            raise StoreError(f"The model store {self.address} does not work: {error}.") from None
