from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from model_store.errors import StoreError
from model_store.factory import open_objects, open_store
from model_store.folder import FolderObjects


def test_a_path_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    objects = open_objects("models")
    assert isinstance(objects, FolderObjects)
    assert objects.root == tmp_path / "models"


@pytest.mark.parametrize("address", ["", "ftp://host/x", "s3://", "gs:///x", "onprem://"])
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(StoreError, match="bucket"):
        open_store(address)


def test_a_server_at_the_site_must_be_in_the_settings() -> None:
    with pytest.raises(StoreError, match="set object_stores.onprem.endpoint"):
        open_store("onprem://models")


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_missing_bucket_is_named(scheme: str, request: pytest.FixtureRequest) -> None:
    endpoint = request.getfixturevalue({"s3": "moto_endpoint", "gs": "gcs_endpoint"}[scheme])
    store = open_store(f"{scheme}://no-such-bucket/models", endpoint=endpoint)
    with pytest.raises(StoreError, match=f"{scheme}://no-such-bucket.* does not exist"):
        store.list()


def test_a_folder_store_loads_no_cloud_library(tmp_path: Path) -> None:
    code = (
        "import sys; from model_store.factory import open_store; "
        f"open_store({str(tmp_path)!r}).channels(); "
        "print({'boto3', 'google.cloud.storage', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"w")
    with pytest.raises(StoreError, match="does not work"):
        open_store(str(tmp_path / "file" / "store")).put(tmp_path / "model", lineage={})
