"""Objects on Amazon S3, or on a server that speaks its protocol."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, ProfileNotFound

from model_store.bucket import SHA256, BucketObjects
from model_store.errors import StoreError
from model_store.objects import (
    PART,
    Entry,
    Transfer,
    changed,
    conflict,
    damaged,
    disk_failed,
    part_size,
    size_of,
)

MISSING = {"404", "NoSuchKey", "NotFound"}
# S3 answers 412 where the condition fails, 409 where two conditional writes meet, and 404 where
# If-Match names an object that is gone.
# And somebody else may have ended or given up an upload that two went on with.
LOST = MISSING | {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchUpload"}
MOST_PARTS = 10_000
CHUNK = 2**16  # small enough for a slow store to be seen at work


class S3Objects(BucketObjects):
    """A version's token is its ETag; writes carry If-Match or If-None-Match.

    Parameters
    ----------
    endpoint
        URL of a server other than Amazon's; buckets are then part of the path.
    scheme
        `onprem` for a server at the site.
    profile, region
        Of the AWS configuration; the process's own by default.
    keys
        Access key and secret; by default they are looked for as every AWS program does.
    answer_seconds
        How long the server may be silent before it is asked again, three times at most.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str,
        *,
        endpoint: str | None = None,
        scheme: str = "s3",
        profile: str | None = None,
        region: str | None = None,
        keys: tuple[str, str] | None = None,
        answer_seconds: float = 60.0,
    ) -> None:
        super().__init__(scheme, bucket, prefix, endpoint=endpoint)
        self.on_site = scheme == "onprem"
        try:
            session = boto3.Session(*(keys or (None, None)), profile_name=profile)
        except ProfileNotFound:
            raise StoreError(
                f"There is no AWS profile {profile!r}: add it to ~/.aws/credentials, or correct "
                "object_stores.onprem.profile."
            ) from None
        self.client = session.client(
            "s3",
            endpoint_url=endpoint,
            region_name=region or session.region_name or "us-east-1",
            config=Config(
                connect_timeout=10,
                read_timeout=answer_seconds,
                retries={"mode": "standard", "max_attempts": 4},
                max_pool_connections=64,
                # Servers other than S3 itself seldom have a host name for each bucket.
                s3={"addressing_style": "path" if endpoint else "auto"},
            ),
        )

    def _read(self, key: str) -> tuple[bytes, str] | None:
        with self._sentences():
            answer = self._found(self.client.get_object, key)
            return None if answer is None else (answer["Body"].read(), answer["ETag"])

    def swap(self, key: str, data: bytes, token: str | None) -> bool:
        with self._sentences():
            try:
                self.client.put_object(**self._name(key), Body=data, **_condition(token))
                return True
            except ClientError as error:
                if _code(error) in LOST:
                    return False
                raise

    def entry(self, key: str) -> Entry | None:
        with self._sentences():
            found = self._found(self.client.head_object, key)
            if found is None:
                return None
            return Entry(key, found["LastModified"], found["ContentLength"], found["ETag"])

    def _pages(self, prefix: str) -> Iterator[list[Entry]]:
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket_name, Prefix=self.prefix + prefix
        )
        with self._sentences():
            for page in pages:
                found = [
                    (item["Key"].removeprefix(self.prefix), item)
                    for item in page.get("Contents", [])
                ]
                yield [
                    Entry(key, item["LastModified"], item["Size"], item["ETag"])
                    for key, item in found
                    if self._listed(key)
                ]

    def sha256(self, key: str) -> str | None:
        with self._sentences():
            found = self._found(self.client.head_object, key)
            return found and found["Metadata"].get(SHA256)

    def put(
        self,
        file: Path,
        key: str,
        sha256: str,
        token: str | None,
        transfer: Transfer | None = None,
    ) -> str:
        size = file.stat().st_size
        send = self._put_whole if size <= PART else self._put_parts
        with self._sentences():
            try:
                return send(file, key, sha256, token, transfer or Transfer())
            except ClientError as error:
                if _code(error) in LOST:
                    raise conflict(self.address, key) from None
                raise

    def _fetch(
        self, key: str, file: Path, token: str | None, transfer: Transfer | None
    ) -> bool:
        have = size_of(file)
        wanted = {"Range": f"bytes={have}-"} if have else {}
        with self._sentences():
            try:
                answer = self._found(
                    self.client.get_object, key, **wanted, **({"IfMatch": token} if token else {})
                )
            except ClientError as error:
                if _code(error) in ("416", "InvalidRange"):
                    return True  # nothing is left to fetch
                if _code(error) in LOST:
                    raise conflict(self.address, key) from None
                raise
            if answer is None:
                return False
            with file.open("ab") as copy:
                for chunk in answer["Body"].iter_chunks(CHUNK):
                    copy.write(chunk)
                    if transfer:
                        transfer.moved(len(chunk))
            return True

    def remove(self, key: str) -> None:
        with self._sentences():
            self.client.delete_object(**self._name(key))

    def unfinished(self, key: str) -> str | None:
        with self._sentences():
            try:
                uploads = self.client.list_multipart_uploads(
                    Bucket=self.bucket_name, Prefix=self.prefix + key
                ).get("Uploads", [])
            except ClientError as error:
                if _code(error) == "AccessDenied":  # then the upload begins anew
                    return None
                raise
            ours = [upload for upload in uploads if upload["Key"] == self.prefix + key]
            newest = max(ours, key=lambda upload: upload["Initiated"], default=None)
            return newest and newest["UploadId"]

    def _put_whole(
        self, file: Path, key: str, sha256: str, token: str | None, transfer: Transfer
    ) -> str:
        data = file.read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise changed(file)
        checksum = _base64(bytes.fromhex(sha256))
        answer = self.client.put_object(
            **self._name(key),
            Body=data,
            Metadata={SHA256: sha256},
            ChecksumSHA256=checksum,
            **_condition(token),
        )
        transfer.moved(len(data))
        self._verify(key, sha256, checksum)
        return answer["ETag"]

    def _put_parts(
        self, file: Path, key: str, sha256: str, token: str | None, transfer: Transfer
    ) -> str:
        upload, arrived = self._upload(key, transfer.upload)
        if upload is None:
            upload = self.client.create_multipart_upload(
                **self._name(key), Metadata={SHA256: sha256}, ChecksumAlgorithm="SHA256"
            )["UploadId"]
            transfer.remember(upload)
        size = part_size(file.stat().st_size, MOST_PARTS)
        whole, digests, parts = hashlib.sha256(), [], []
        with file.open("rb") as source:
            while data := source.read(size):
                whole.update(data)
                digests.append(hashlib.sha256(data).digest())
                part = {"PartNumber": len(digests), "ChecksumSHA256": _base64(digests[-1])}
                # A part of an unencrypted object has the MD5 of its content as ETag.
                etag = f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
                if arrived.get(part["PartNumber"]) != etag:
                    etag = self.client.upload_part(
                        **self._name(key), UploadId=upload, Body=data, **part
                    )["ETag"]
                transfer.moved(len(data))
                parts.append(part | {"ETag": etag})
        transfer.remember(None)
        try:
            if whole.hexdigest() != sha256:
                raise changed(file)
            # Not every server heeds the condition of the next call: ask beforehand as well.
            if not self.is_version(key, token):
                raise conflict(self.address, key)
            answer = self.client.complete_multipart_upload(
                **self._name(key),
                UploadId=upload,
                MultipartUpload={"Parts": parts},
                **_condition(token),
            )
        except (StoreError, ClientError):
            self.client.abort_multipart_upload(**self._name(key), UploadId=upload)
            raise
        self._verify(key, sha256, _base64(hashlib.sha256(b"".join(digests)).digest()))
        return answer["ETag"]

    def _upload(self, key: str, upload: str | None) -> tuple[str | None, dict[int, str]]:
        """An upload that can go on, and the ETags of the parts that have arrived."""
        if upload is None:
            return None, {}
        try:
            pages = self.client.get_paginator("list_parts").paginate(
                **self._name(key), UploadId=upload
            )
            parts = [part for page in pages for part in page.get("Parts", [])]
            return upload, {part["PartNumber"]: part["ETag"] for part in parts}
        except ClientError as error:
            if _code(error) == "NoSuchUpload":  # the bucket's rules have removed it
                return None, {}
            raise

    def _verify(self, key: str, sha256: str, checksum: str) -> None:
        """Compare the checksum that the store made; where it made none, read the object."""
        found = self.client.head_object(**self._name(key), ChecksumMode="ENABLED")
        made = found.get("ChecksumSHA256", "").partition("-")[0]
        if not made:
            body = self.client.get_object(**self._name(key))["Body"]
            digest = hashlib.sha256()
            for chunk in body.iter_chunks(CHUNK):
                digest.update(chunk)
            made, checksum = digest.hexdigest(), sha256
        if made != checksum:
            raise damaged(self.address, key)

    def _name(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket_name, "Key": self.prefix + key}

    def _found(self, call: Any, key: str, **more: Any) -> dict[str, Any] | None:
        try:
            return call(**self._name(key), **more)
        except ClientError as error:
            if _code(error) in MISSING:
                return None
            raise

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        try:
            yield
        except NoCredentialsError:
            raise StoreError(
                f"There are no AWS credentials for the store {self.address}: set AWS_PROFILE, or "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            ) from None
        except (ClientError, BotoCoreError, Boto3Error) as error:
            if "NoSuchBucket" in str(error):
                raise StoreError(
                    f"The bucket {self.scheme}://{self.bucket_name} does not exist: create it or "
                    "correct the address."
                ) from None
            raise StoreError(f"The store {self.address} does not work: {error}.") from None
        except OSError as error:
            raise disk_failed(error) from None


def _condition(token: str | None) -> dict[str, str]:
    return {"IfNoneMatch": "*"} if token is None else {"IfMatch": token}


def _base64(digest: bytes) -> str:
    return b64encode(digest).decode()


def _code(error: ClientError) -> str:
    return error.response.get("Error", {}).get("Code", "")
