"""The three stores on real parts: a folder, a moto server and a fake-gcs-server."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from model_store.factory import open_store
from model_store.signing import Keyring
from model_store.store import Store


@pytest.fixture(autouse=True)
def aws_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.delenv("AWS_PROFILE", raising=False)


@pytest.fixture
def keys(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path / "keys")


@pytest.fixture(params=["folder", "s3", "gcs"])
def reopen(
    request: pytest.FixtureRequest, tmp_path: Path, keys: Keyring
) -> Callable[[], Store]:
    """Open one and the same new store, as another process would."""
    bucket = f"models-{uuid.uuid4().hex}"
    if request.param == "folder":
        return lambda: open_store(str(tmp_path / "store"), keys=keys)
    if request.param == "s3":
        endpoint = request.getfixturevalue("moto_endpoint")
        boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(
            Bucket=bucket
        )
        return lambda: open_store(f"s3://{bucket}/team/models", endpoint=endpoint, keys=keys)
    endpoint = request.getfixturevalue("gcs_endpoint")
    storage.Client(
        project="test",
        credentials=AnonymousCredentials(),
        client_options={"api_endpoint": endpoint},
    ).create_bucket(bucket)
    return lambda: open_store(f"gs://{bucket}/team/models", endpoint=endpoint, keys=keys)


@pytest.fixture
def store(reopen: Callable[[], Store]) -> Store:
    return reopen()


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., Path]:
    """Write the files of a small model; `text` tells two of them apart."""

    def make(text: str = "one") -> Path:
        folder = tmp_path / f"artefact-{uuid.uuid4().hex}"
        (folder / "onnx").mkdir(parents=True)
        (folder / "weights.safetensors").write_bytes(text.encode() * 1000)
        (folder / "items.json").write_text('["a", "b"]')
        (folder / "onnx" / "model.onnx").write_bytes(b"graph")
        return folder

    return make
