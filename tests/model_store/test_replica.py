"""Replicas in both clouds, and stores that come back from one of them alone."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from model_store.factory import open_store
from model_store.replica import drill, replicate
from model_store.signing import Keyring, signatures_of
from model_store.store import Store

Make = Callable[..., Path]


@pytest.fixture
def original(tmp_path: Path, make_model: Make, keys: Keyring) -> Store:
    """A store in a folder: a model, one made from it, and two channels with a history."""
    store = open_store(str(tmp_path / "original"), keys=keys)
    parent = store.put(make_model("parent"), lineage={"run": 1})
    child = store.put(make_model("child"), lineage={"parent": parent})
    store.move_channel("production", parent)
    store.move_channel("production", child)
    store.move_channel("staging", child)
    return store


@pytest.fixture
def replicas(moto_endpoint: str, gcs_endpoint: str, keys: Keyring) -> list[Store]:
    """An empty bucket in each cloud."""
    name = f"replica-{uuid.uuid4().hex}"
    boto3.client("s3", endpoint_url=moto_endpoint, region_name="us-east-1").create_bucket(
        Bucket=name
    )
    storage.Client(
        project="test",
        credentials=AnonymousCredentials(),
        client_options={"api_endpoint": gcs_endpoint},
    ).create_bucket(name)
    return [
        open_store(f"s3://{name}/models", endpoint=moto_endpoint, keys=keys),
        open_store(f"gs://{name}/models", endpoint=gcs_endpoint, keys=keys),
    ]


def test_a_lost_store_comes_back_from_either_cloud(
    original: Store, replicas: list[Store], tmp_path: Path, keys: Keyring
) -> None:
    models = {record.digest: record.lineage for record in original.list()}
    channels, history = original.channels(), original.history("production")
    for replica in replicas:
        done = replicate(original, replica.objects)
        assert set(done.copied) == models.keys() and done.channels == channels and not done.refused
        again = replicate(original, replica.objects)
        assert set(again.same) == models.keys() and not again.copied and not again.channels
        found = drill(original, replica)
        assert set(found.restored) == models.keys()
        assert not found.problems and not found.behind
    files = [(original.get(model, tmp_path / model[7:])) for model in models]
    contents = {file.name: (file / "weights.safetensors").read_bytes() for file in files}
    shutil.rmtree(tmp_path / "original")
    for number, replica in enumerate(replicas):
        back = open_store(str(tmp_path / f"back{number}"), keys=keys)
        replicate(replica, back.objects)
        assert {record.digest: record.lineage for record in back.list()} == models
        assert back.channels() == channels and back.history("production") == history
        for model in models:
            got = back.get(model, tmp_path / f"got{number}" / model[7:])
            assert (got / "weights.safetensors").read_bytes() == contents[model[7:]]


@pytest.fixture
def folder(tmp_path: Path, keys: Keyring) -> Store:
    return open_store(str(tmp_path / "replica"), keys=keys)


def test_the_drill_tells_what_is_damaged_and_what_is_missing(
    original: Store, folder: Store, tmp_path: Path, make_model: Make
) -> None:
    replicate(original, folder.objects)
    child = original.channels()["production"]
    (weights,) = [f for f in folder.manifest(child).files if f.name == "weights.safetensors"]
    (tmp_path / "replica" / "blobs" / weights.sha256).write_bytes(b"rot")
    later = original.put(make_model("later"), lineage={})
    found = drill(original, folder)
    assert "weights.safetensors should have SHA-256" in found.problems[child]
    assert "did not come over" in found.problems["production"]
    assert found.behind == [later, "staging", "production"]
    assert len(found.restored) == 1


def test_what_nobody_signed_is_left_out_and_told(
    original: Store, folder: Store, make_model: Make
) -> None:
    loose = Store(original.objects).put(make_model("loose"), lineage={})
    done = replicate(original, folder.objects)
    assert "nobody signed it" in done.refused[loose] and len(done.copied) == 2


def test_signatures_that_came_later_come_over(
    original: Store, folder: Store, keys: Keyring
) -> None:
    from model_store.signing import add_signature

    replicate(original, folder.objects)
    child = original.channels()["staging"]
    keys.rotate()
    add_signature(original.objects, child, keys)
    replicate(original, folder.objects)
    assert len(list(folder.objects.entries(signatures_of(child)))) == 2


def test_a_channel_that_was_moved_at_the_replica_stays(original: Store, folder: Store) -> None:
    replicate(original, folder.objects)
    parent = folder.history("production")[0].model
    folder.move_channel("production", parent)
    original.move_channel("staging", parent)
    done = replicate(original, folder.objects)
    assert "moved by another hand" in done.refused["production"]
    assert done.channels == {"staging": parent}
    assert folder.channels()["production"] == parent


def test_what_is_private_goes_to_a_place_at_the_site_only(
    original: Store, folder: Store, replicas: list[Store], make_model: Make, tmp_path: Path
) -> None:
    (tmp_path / "vault").mkdir()
    (tmp_path / "vault" / ".residency").touch()
    model = shutil.copytree(make_model("secret"), tmp_path / "vault" / "model")
    digest = original.put(model, lineage={})
    done = replicate(original, replicas[0].objects)
    assert "labelled private" in done.refused[digest] and digest not in done.copied
    assert not [e for e in replicas[0].objects.entries() if digest[7:] in e.key]
    assert digest in replicate(original, folder.objects).copied
    assert digest in replicate(folder, replicas[0].objects).refused
