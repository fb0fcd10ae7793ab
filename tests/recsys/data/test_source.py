"""Addresses: the same data from a path, S3 and GCS, on servers that speak their protocols."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from recsys.data.impressions import load_impressions
from recsys.data.interactions import load_interactions
from recsys.data.ratings import load_ratings
from recsys.data.source import local_copy
from recsys.errors import RecsysError

FILES = {
    "events.csv": b"user,item,time\nu,b,2\nu,a,1\n",
    "items.csv": b"item,text\na,Lamp\nb,Chair\n",
    "ratings.csv": b"user,item,rating\nu,a,5\nu,b,nan\n",
    "picture.png": b"not data",
    "old/events.csv": b"user,item\nx,y\n",
}


@pytest.fixture(autouse=True)
def aws_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.delenv("AWS_PROFILE", raising=False)


@pytest.fixture(params=["s3", "gs"])
def bucket(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Address and endpoint of a bucket with the files in its folder ``shop``."""
    name = f"data-{uuid.uuid4().hex}"
    put: Callable[[str, bytes], object]
    if request.param == "s3":
        endpoint = request.getfixturevalue("moto_endpoint")
        s3 = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
        s3.create_bucket(Bucket=name)
        put = lambda key, data: s3.put_object(Bucket=name, Key=key, Body=data)  # noqa: E731
    else:
        endpoint = request.getfixturevalue("gcs_endpoint")
        client = storage.Client(
            project="test",
            credentials=AnonymousCredentials(),
            client_options={"api_endpoint": endpoint},
        )
        handle = client.create_bucket(name)
        put = lambda key, data: handle.blob(key).upload_from_string(data)  # noqa: E731
    for file, data in FILES.items():
        put(f"shop/{file}", data)
    return f"{request.param}://{name}", endpoint


def test_a_folder_and_a_file_of_a_bucket_are_read(bucket: tuple[str, str], tmp_path: Path) -> None:
    address, endpoint = bucket
    folder = load_interactions(f"{address}/shop/", endpoint=endpoint)
    assert folder.history("u") == ["a", "b"] and folder.item_text == ["Lamp", "Chair"]
    file = load_interactions(f"{address}/shop/events.csv", endpoint=endpoint)
    assert file.history("u") == ["a", "b"] and file.item_text is None
    with local_copy(f"{address}/shop", endpoint=endpoint) as copy:
        names = {found.name for found in copy.iterdir()}
    assert names == {"events.csv", "items.csv", "ratings.csv"}
    assert not copy.exists()


def test_errors_name_the_address(bucket: tuple[str, str]) -> None:
    address, endpoint = bucket
    with pytest.raises(RecsysError, match=f"^{address}/shop/ratings.csv, line 3: rating is 'nan'"):
        load_ratings(f"{address}/shop", endpoint=endpoint)
    with pytest.raises(RecsysError, match=f"^{address}/shop must hold one file of impressions"):
        load_impressions(f"{address}/shop", endpoint=endpoint)
    with pytest.raises(RecsysError, match=f"no data at {address}/sho: no object"):
        load_interactions(f"{address}/sho", endpoint=endpoint)
    with pytest.raises(RecsysError, match=f"the bucket {address}-absent does not exist"):
        load_interactions(f"{address}-absent/shop", endpoint=endpoint)


@pytest.mark.parametrize("address", ["ftp://host/data.csv", "s3://", "gs:///key"])
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(RecsysError, match="is no address of data: use s3://bucket/key"):
        load_interactions(address)


def test_a_cloud_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(RecsysError, match="s3://shop/data.csv cannot be read: .*127.0.0.1:9"):
        load_interactions("s3://shop/data.csv", endpoint="http://127.0.0.1:9")
