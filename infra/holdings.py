"""What the object stores hold that a teardown would delete, and deleting it on request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from infra.clients import Aws, Gcs

# Keys of a model store (model_store/store.py), below whatever prefix it has.
_MODEL = re.compile(r"(^|/)manifests/[0-9a-f]{64}\.json$")
_CHANNEL = re.compile(r"(^|/)channels/([a-z]+)$")


@dataclass(frozen=True)
class Holding:
    """What one bucket holds.

    Parameters
    ----------
    address
        ``s3://bucket``, ``gs://bucket``, or ``https://…`` of a storage account on Azure.
    objects, bytes
        How many there are, and their size together; replaced versions count too.
    newest
        When the last of them was written.
    models, channels
        Stored models, and the channels that point to some.
    """

    address: str
    objects: int
    bytes: int
    newest: datetime
    models: int
    channels: tuple[str, ...]

    def __str__(self) -> str:
        models = ""
        if self.models:
            pointed = f" (channels: {', '.join(self.channels)})" if self.channels else ""
            models = f", among them {self.models} model{'s' * (self.models != 1)}{pointed}"
        return (
            f"{self.address} holds {self.objects} object{'s' * (self.objects != 1)} of "
            f"{_size(self.bytes)}, the newest of {self.newest:%Y-%m-%d %H:%M} UTC{models}"
        )


def s3_holding(aws: Aws, bucket: str) -> Holding | None:
    """What an S3 bucket holds; None where it is empty."""
    versions = (
        (each["Key"], each["Size"], each["LastModified"])
        for page in aws("s3").get_paginator("list_object_versions").paginate(Bucket=bucket)
        for each in page.get("Versions") or ()
    )
    return holding_of(f"s3://{bucket}", versions)


def gcs_holding(gcs: Gcs, bucket: str) -> Holding | None:
    """What a Cloud Storage bucket holds; None where it is empty."""
    blobs = gcs.client().list_blobs(bucket, versions=True)
    return holding_of(f"gs://{bucket}", ((b.name, b.size or 0, b.updated) for b in blobs))


def empty_s3(aws: Aws, bucket: str) -> None:
    """Delete every version, every deletion mark and every unfinished upload."""
    s3 = aws("s3")
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
        versions = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
        if keys := [{"Key": each["Key"], "VersionId": each["VersionId"]} for each in versions]:
            s3.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
    for page in s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket):
        for upload in page.get("Uploads", ()):
            s3.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])


def empty_gcs(gcs: Gcs, bucket: str) -> None:
    """Delete every version of every object."""
    from google.cloud.exceptions import NotFound

    client = gcs.client()
    for blob in client.list_blobs(bucket, versions=True):
        try:
            blob.delete()
        except NotFound:  # fake-gcs-server lists replaced versions, and knows none of them
            continue


def holding_of(address: str, objects: Iterator[tuple[str, int, datetime]]) -> Holding | None:
    """What a store holds, given key, size in bytes and time of each object; None where nothing."""
    listed: Iterable[tuple[str, int, datetime]] = list(objects)
    if not listed:
        return None
    keys = {key for key, _, _ in listed}
    channels = sorted(match[2] for key in keys if (match := _CHANNEL.search(key)))
    return Holding(
        address,
        objects=len(listed),
        bytes=sum(size for _, size, _ in listed),
        newest=max(written for _, _, written in listed),
        models=sum(1 for key in keys if _MODEL.search(key)),
        channels=tuple(channels),
    )


def _size(number: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
