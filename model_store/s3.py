"""The model store on Amazon S3, or on a server that speaks its protocol."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from model_store.errors import StoreError
from model_store.store import Entry, Store

MISSING = {"404", "NoSuchKey", "NotFound"}
# S3 answers 412 where the condition fails, 409 where two conditional writes meet, and 404 where
# If-Match names an object that is gone.
LOST = MISSING | {"PreconditionFailed", "ConditionalRequestConflict"}


class S3Store(Store):
    """Objects under a prefix of a bucket; a version's token is its ETag.

    Channels rest on conditional writes (If-Match and If-None-Match of PutObject).
    """

    def __init__(self, bucket: str, prefix: str, *, endpoint: str | None = None) -> None:
        self.bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        session = boto3.Session()
        self.client = session.client(
            "s3",
            endpoint_url=endpoint,
            region_name=session.region_name or "us-east-1",
            config=Config(
                connect_timeout=10,
                retries={"mode": "standard", "max_attempts": 4},
                # Servers other than S3 itself seldom have a host name for each bucket.
                s3={"addressing_style": "path" if endpoint else "auto"},
            ),
        )

    def _read(self, key: str) -> tuple[bytes, str] | None:
        with self._sentences():
            try:
                answer = self.client.get_object(Bucket=self.bucket, Key=self.prefix + key)
                return answer["Body"].read(), answer["ETag"]
            except ClientError as error:
                if _code(error) in MISSING:
                    return None
                raise

    def _swap(self, key: str, data: bytes, token: str | None) -> bool:
        condition = {"IfNoneMatch": "*"} if token is None else {"IfMatch": token}
        with self._sentences():
            try:
                self.client.put_object(
                    Bucket=self.bucket, Key=self.prefix + key, Body=data, **condition
                )
                return True
            except ClientError as error:
                if _code(error) in LOST:
                    return False
                raise

    def _size(self, key: str) -> int | None:
        with self._sentences():
            try:
                answer = self.client.head_object(Bucket=self.bucket, Key=self.prefix + key)
                return answer["ContentLength"]
            except ClientError as error:
                if _code(error) in MISSING:
                    return None
                raise

    def _upload(self, file: Path, key: str) -> None:
        with self._sentences():
            # In parts where large; the object appears when the last has arrived.
            self.client.upload_file(str(file), self.bucket, self.prefix + key)

    def _download(self, key: str, file: Path) -> bool:
        with self._sentences():
            try:
                self.client.download_file(self.bucket, self.prefix + key, str(file))
                return True
            except ClientError as error:
                if _code(error) in MISSING:
                    return False
                raise

    def _entries(self, prefix: str) -> Iterator[Entry]:
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=self.prefix + prefix
        )
        with self._sentences():
            for page in pages:
                for item in page.get("Contents", []):
                    yield Entry(item["Key"].removeprefix(self.prefix), item["LastModified"])

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        try:
            yield
        except NoCredentialsError:
            raise StoreError(
                "There are no AWS credentials for the model store: set AWS_PROFILE, or "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            ) from None
        except (ClientError, BotoCoreError, Boto3Error) as error:
            if "NoSuchBucket" in str(error):
                raise StoreError(
                    f"The bucket s3://{self.bucket} of the model store does not exist: create it "
                    "or correct the address."
                ) from None
            raise StoreError(
                f"The model store s3://{self.bucket}/{self.prefix} does not work: {error}."
            ) from None


def _code(error: ClientError) -> str:
    return error.response.get("Error", {}).get("Code", "")
