"""The files of models as objects under their own hash: sent once, resumed, checked on arrival."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from model_store.errors import StoreError
from model_store.folder import sync_file
from model_store.manifest import FileEntry, sha256_of
from model_store.objects import PART, ConflictError, Objects, Transfer, disk_failed, size_of
from model_store.patience import SlowStoreError

# A connection that breaks is no reason to fetch what has arrived again.
ATTEMPTS = 4


def blob_key(file: FileEntry) -> str:
    """Where the content of a file is, whichever models have it."""
    return f"blobs/{file.sha256}"


def put_blob(objects: Objects, folder: Path, file: FileEntry) -> None:
    """Send one file of a folder, unless its content is there.

    It is sent from a private copy, so that what is sent is what was hashed. An upload that was
    killed goes on where it ended, whoever began it.

    Raises
    ------
    StoreError
        The file changed since it was hashed, or the store does not work.
    """
    key = blob_key(file)
    found = objects.entry(key)
    # Of an object cut short by another tool only the size tells without reading it.
    if found and found.size == file.size:
        return
    with tempfile.TemporaryDirectory(prefix="hybrid-model-") as private:
        copy = Path(private) / "blob"
        try:
            shutil.copyfile(folder / file.name, copy)
        except OSError as error:
            raise disk_failed(error) from None
        if sha256_of(copy) != file.sha256:
            raise StoreError(
                f"{folder / file.name} changed while it was stored: try again when nothing "
                "writes to it."
            )
        transfer = Transfer()
        if file.size > PART:
            transfer.upload = objects.unfinished(key)
        try:
            objects.put(copy, key, file.sha256, found.token if found else None, transfer)
        except ConflictError:
            found = objects.entry(key)
            if not found or found.size != file.size:
                raise
            # Somebody else has just stored the same content.


def get_blob(objects: Objects, digest: str, file: FileEntry, target: Path) -> None:
    """Fetch one file of a model and check it.

    Raises
    ------
    StoreError
        It is missing, does not arrive whole or fast enough, or has another hash.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(ATTEMPTS):
        before = size_of(target)
        try:
            if not objects.fetch(blob_key(file), target):
                raise StoreError(f"Model {digest} is not whole: its file {file.name} is missing.")
            break
        except SlowStoreError:
            raise  # what is under way still writes
        except StoreError:
            # What has arrived is kept: the next attempt asks for the rest.
            if attempt + 1 == ATTEMPTS or size_of(target) <= before:
                raise
    got = sha256_of(target)
    if got != file.sha256:
        raise StoreError(
            f"Model {digest} is corrupt: its file {file.name} should have SHA-256 "
            f"{file.sha256} but has {got}; store the model again or take another."
        )
    sync_file(target)
