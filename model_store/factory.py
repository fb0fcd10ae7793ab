"""From an address to the objects or the model store behind it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from model_store.errors import StoreError
from model_store.objects import Objects
from model_store.store import Store

if TYPE_CHECKING:
    from model_store.signing import Keyring


@dataclass(frozen=True)
class OnPrem:
    """A server at the site that speaks S3, such as MinIO, and the AWS profile with its keys."""

    endpoint: str
    profile: str | None = None
    region: str = "us-east-1"


def open_store(
    address: str,
    *,
    endpoint: str | None = None,
    onprem: OnPrem | None = None,
    keys: Keyring | None = None,
) -> Store:
    """The model store at an address; see `open_objects` and `Store`."""
    return Store(open_objects(address, endpoint=endpoint, onprem=onprem), keys)


def open_objects(
    address: str,
    *,
    endpoint: str | None = None,
    onprem: OnPrem | None = None,
    keys: tuple[str, str] | None = None,
) -> Objects:
    """The objects at an address.

    Parameters
    ----------
    address
        ``s3://bucket/prefix``, ``gs://bucket/prefix``, ``onprem://bucket/prefix``, or the path of
        a folder.
    endpoint
        URL of a server that stands for the cloud, for example an emulator.
    onprem
        What answers at ``onprem://``.
    keys
        Access key and secret for S3; by default they are looked for as every AWS program does.

    Raises
    ------
    StoreError
        The address is of no known kind or lacks its bucket.
    """
    if "://" not in address:
        if not address:
            raise StoreError("The address of the store is empty: give a folder or a bucket.")
        from model_store.folder import FolderObjects

        return FolderObjects(Path(address).expanduser().absolute())
    scheme, _, rest = address.partition("://")
    bucket, _, prefix = rest.partition("/")
    if scheme not in ("s3", "gs", "onprem") or not bucket:
        raise StoreError(
            f"{address!r} is no address of a store: use s3://bucket/prefix, gs://bucket/prefix, "
            "onprem://bucket/prefix or a folder."
        )
    prefix = prefix.strip("/")
    if scheme == "gs":
        from model_store.gcs import GcsObjects

        return GcsObjects(bucket, prefix, endpoint=endpoint)
    from model_store.s3 import S3Objects

    if scheme == "s3":
        return S3Objects(bucket, prefix, endpoint=endpoint, keys=keys)
    if onprem is None:
        raise StoreError(
            f"{address!r} needs a server at the site: set object_stores.onprem.endpoint."
        )
    return S3Objects(
        bucket,
        prefix,
        scheme="onprem",
        endpoint=onprem.endpoint,
        profile=onprem.profile,
        region=onprem.region,
    )
