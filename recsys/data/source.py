"""Where data lies: a path, an S3 or a GCS address; all are read as local files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from recsys.data.tables import has_known_suffix
from recsys.errors import RecsysError

# Names of the objects under an address, and a function that writes one of them to a file.
Objects = tuple[Iterable[str], Callable[[str, Path], object]]


@contextmanager
def local_copy(address: Path | str, *, endpoint: str | None = None) -> Iterator[Path]:
    """Give the local path of the data at an address, for as long as the context lasts.

    Of a bucket's folder the data files that lie directly in it are fetched, to a temporary folder.
    Errors raised in the context name the address instead of the temporary copy.

    Parameters
    ----------
    address
        A path, ``s3://bucket/key`` or ``gs://bucket/key``, of a file or a folder.
    endpoint
        URL of a server that stands for the cloud, for example an emulator. Without it boto3 and
        google-cloud-storage look at AWS_ENDPOINT_URL_S3 and STORAGE_EMULATOR_HOST.

    Raises
    ------
    RecsysError
        When nothing is there, the address is of no known kind, or the cloud refuses.
    """
    if "://" not in str(address):
        path = Path(address).expanduser()
        if not path.exists():
            raise RecsysError(f"no data at {path}: give a folder or file, s3://… or gs://…")
        yield path
        return
    address = str(address).rstrip("/")
    scheme, _, rest = address.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme not in ("s3", "gs") or not bucket:
        raise RecsysError(
            f"{address!r} is no address of data: use s3://bucket/key, gs://bucket/key or a path"
        )
    with tempfile.TemporaryDirectory(prefix="hybrid-data-") as scratch:
        copy = Path(scratch) / (key or bucket).rpartition("/")[2]
        fetch = _from_s3 if scheme == "s3" else _from_gcs
        fetch(bucket, key, endpoint, lambda objects: _download(address, key, copy, objects))
        try:
            yield copy
        except RecsysError as error:
            raise type(error)(str(error).replace(str(copy), address)) from error


def _download(address: str, key: str, copy: Path, objects: Objects) -> None:
    names, write = objects
    names = list(names)
    if key in names:
        write(key, copy)
        return
    prefix = f"{key}/" if key else ""
    inside = [name for name in names if name.startswith(prefix) and has_known_suffix(name)]
    if not inside:
        raise RecsysError(f"no data at {address}: no object of that name, no data files under it")
    copy.mkdir()
    for name in inside:
        write(name, copy / name.removeprefix(prefix))


def _from_s3(
    bucket: str, key: str, endpoint: str | None, download: Callable[[Objects], None]
) -> None:
    import boto3
    from boto3.exceptions import Boto3Error
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    session = boto3.Session()
    client = session.client(
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

    def names() -> Iterator[str]:
        # Two listings: the object itself, and what lies directly in the folder.
        for prefix in (key, f"{key}/") if key else ("",):
            pages = client.get_paginator("list_objects_v2").paginate(
                Bucket=bucket, Prefix=prefix, Delimiter="/"
            )
            for page in pages:
                yield from (item["Key"] for item in page.get("Contents", []))

    try:
        download((names(), lambda name, file: client.download_file(bucket, name, str(file))))
    except NoCredentialsError:
        raise RecsysError(
            f"there are no AWS credentials to read s3://{bucket}: set AWS_PROFILE, or "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from None
    except (ClientError, BotoCoreError, Boto3Error) as error:
        if "NoSuchBucket" in str(error):
            raise RecsysError(f"the bucket s3://{bucket} does not exist") from None
        raise RecsysError(f"s3://{bucket}/{key} cannot be read: {error}") from error


def _from_gcs(
    bucket: str, key: str, endpoint: str | None, download: Callable[[Objects], None]
) -> None:
    from google.api_core.exceptions import GoogleAPIError, NotFound
    from google.auth.credentials import AnonymousCredentials
    from google.auth.exceptions import GoogleAuthError
    from google.cloud import storage
    from requests import RequestException

    try:
        if endpoint:
            client = storage.Client(
                project="emulator",
                credentials=AnonymousCredentials(),
                client_options={"api_endpoint": endpoint},
            )
        else:
            client = storage.Client()
        names = (
            blob.name
            for prefix in ((key, f"{key}/") if key else ("",))
            for blob in client.list_blobs(bucket, prefix=prefix, delimiter="/")
        )
        handle = client.bucket(bucket)
        download((names, lambda name, file: handle.blob(name).download_to_filename(str(file))))
    except GoogleAuthError as error:
        raise RecsysError(
            f"there are no Google credentials to read gs://{bucket}: run `gcloud auth "
            f"application-default login` or set GOOGLE_APPLICATION_CREDENTIALS ({error})"
        ) from None
    except NotFound:
        raise RecsysError(f"the bucket gs://{bucket} does not exist") from None
    except (GoogleAPIError, RequestException) as error:
        raise RecsysError(f"gs://{bucket}/{key} cannot be read: {error}") from error
