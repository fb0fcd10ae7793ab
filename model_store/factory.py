"""From an address to the store behind it."""

from __future__ import annotations

from pathlib import Path

from model_store.errors import StoreError
from model_store.store import Store


def open_store(address: str, *, endpoint: str | None = None) -> Store:
    """Open the store at an address.

    Parameters
    ----------
    address
        ``s3://bucket/prefix``, ``gs://bucket/prefix``, or the path of a folder.
    endpoint
        URL of a server that stands for the cloud, for example an emulator.

    Raises
    ------
    StoreError
        The address is of no known kind or lacks its bucket.
    """
    if "://" not in address:
        if not address:
            raise StoreError("The address of the model store is empty: give a folder or a bucket.")
        from model_store.folder import FolderStore

        return FolderStore(Path(address).expanduser().absolute())
    scheme, _, rest = address.partition("://")
    bucket, _, prefix = rest.partition("/")
    if scheme not in ("s3", "gs") or not bucket:
        raise StoreError(
            f"{address!r} is no address of a model store: use s3://bucket/prefix, "
            "gs://bucket/prefix or a folder."
        )
    if scheme == "s3":
        from model_store.s3 import S3Store

        return S3Store(bucket, prefix.strip("/"), endpoint=endpoint)
    from model_store.gcs import GcsStore

    return GcsStore(bucket, prefix.strip("/"), endpoint=endpoint)
