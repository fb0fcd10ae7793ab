"""Syncs between real parts: folders, a moto server and a fake-gcs-server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import boto3
import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from model_store.errors import StoreError
from model_store.factory import OnPrem, open_objects
from model_store.objects import PART, ConflictError, Objects
from model_store.residency import ResidencyError
from model_store.sync import Synced, sync

FILES = {"a.txt": b"one", "deep/b.bin": b"two" * 1000, "deep/er/c": b""}


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Objects]:
    """A new, empty place of a kind: folder, s3, onprem or gs."""

    def make(kind: str) -> Objects:
        name = f"sync-{uuid.uuid4().hex}"
        if kind == "folder":
            (tmp_path / name).mkdir()
            return open_objects(str(tmp_path / name))
        if kind == "gs":
            endpoint = request.getfixturevalue("gcs_endpoint")
            storage.Client(
                project="test",
                credentials=AnonymousCredentials(),
                client_options={"api_endpoint": endpoint},
            ).create_bucket(name)
            return open_objects(f"gs://{name}/data", endpoint=endpoint)
        endpoint = request.getfixturevalue("moto_endpoint")
        boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket=name)
        return open_objects(f"{kind}://{name}/data", endpoint=endpoint, onprem=OnPrem(endpoint))

    return make


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Synced]:
    """A sync whose journal is the same in each call of a test."""
    return lambda source, target, **options: sync(source, target, tmp_path / "journals", **options)


def fill(objects: Objects, files: dict[str, bytes]) -> None:
    for key, data in files.items():
        found = objects.read(key)
        assert objects.swap(key, data, found[1] if found else None)


def contents(objects: Objects) -> dict[str, bytes]:
    return {entry.key: objects.read(entry.key)[0] for entry in objects.entries()}


@pytest.mark.parametrize(
    ("source", "target"),
    [("folder", "s3"), ("s3", "gs"), ("gs", "onprem"), ("onprem", "folder")],
)
def test_what_is_missing_is_copied_once(place, run, source: str, target: str) -> None:
    here, there = place(source), place(target)
    fill(here, FILES)
    done = run(here, there)
    assert done.copied == sorted(FILES) and done.bytes == 3003
    assert contents(there) == FILES
    assert all(there.sha256(key) for key in FILES)
    again = run(here, there)
    assert again.copied == [] and again.same == sorted(FILES)
    fill(here, {"a.txt": b"another"})
    assert run(here, there).copied == ["a.txt"]  # it was the sync that put the old one there
    assert there.read("a.txt")[0] == b"another"


def test_content_that_is_there_already_is_not_sent_also_without_a_journal(place, run) -> None:
    here, there = place("folder"), place("s3")
    for objects in (here, there):
        fill(objects, FILES)
    puts = calls(there, "PutObject")
    assert run(here, there).same == sorted(FILES) and puts == []


def test_what_another_hand_wrote_is_kept_unless_it_may_go(place, run) -> None:
    here, there = place("folder"), place("s3")
    fill(here, FILES)
    fill(there, {"a.txt": b"theirs"})
    done = run(here, there)
    assert done.conflicts == ["a.txt"] and len(done.copied) == 2
    assert there.read("a.txt")[0] == b"theirs"
    assert run(here, there, overwrite=True).copied == ["a.txt"]
    fill(there, {"a.txt": b"theirs again"})
    fill(here, {"a.txt": b"ours again"})
    assert run(here, there).conflicts == ["a.txt"]


@pytest.mark.parametrize(
    ("kind", "size"), [("folder", 5), ("s3", 5), ("s3", PART + 1), ("gs", 5), ("gs", PART + 1)]
)
def test_who_writes_between_look_and_copy_is_not_overwritten(
    place, run, monkeypatch: pytest.MonkeyPatch, kind: str, size: int
) -> None:
    here, there = place("folder"), place(kind)
    fill(here, {"a": b"x" * size})
    fill(there, {"a": b"before"})
    put = there.put

    def be_overtaken(*arguments):
        fill(there, {"a": b"theirs"})
        return put(*arguments)

    monkeypatch.setattr(there, "put", be_overtaken)
    assert run(here, there, overwrite=True).conflicts == ["a"]
    assert there.read("a")[0] == b"theirs"


def test_a_killed_sync_goes_on_within_an_object(place, run, tmp_path: Path) -> None:
    here, there = place("folder"), place("s3")
    large = os.urandom(2 * PART + 10)
    fill(here, {"large": large})
    code = f"""if True:
    import os, signal
    from pathlib import Path
    from model_store.factory import open_objects
    from model_store.sync import sync
    there = open_objects({f"s3://{there.bucket_name}/data"!r}, endpoint={there.endpoint!r})
    def kill(**arguments):
        if "partNumber=2" in arguments["request"].url:
            os.kill(os.getpid(), signal.SIGKILL)
    there.client.meta.events.register("before-send.s3.UploadPart", kill)
    sync(open_objects({here.address!r}), there, Path({str(tmp_path / "journals")!r}))
    """
    done = subprocess.run([sys.executable, "-c", code])
    assert done.returncode == -signal.SIGKILL
    assert contents(there) == {}
    parts = calls(there, "UploadPart")
    assert run(here, there).copied == ["large"]
    assert [part["PartNumber"] for part in parts] == [2, 3]
    assert contents(there) == {"large": large}


def test_an_interrupted_sync_to_gcs_and_one_from_s3_send_only_the_rest(
    place, run, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = place("s3"), place("gs")
    large = os.urandom(2 * PART + 10)
    fill(here, {"large": large})
    upload, sent = storage.Blob.upload_from_file, []

    def interrupt(blob, *arguments, **options):
        if len(sent) == 1:
            raise KeyboardInterrupt
        sent.append(blob.name)
        return upload(blob, *arguments, **options)

    monkeypatch.setattr(storage.Blob, "upload_from_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(here, there)
    assert contents(there) == {}
    sent.append("nothing more is interrupted")
    gets = calls(here, "GetObject")
    assert run(here, there).copied == ["large"]
    assert len(sent) == 4 and len(set(sent)) == 4  # three parts, each of them once
    assert [get["Range"] for get in gets] == [f"bytes={len(large)}-"]  # all had been fetched
    assert contents(there) == {"large": large}
    assert [blob.name for blob in there.bucket.list_blobs()] == ["data/large"]


def test_bytes_that_change_on_the_way_are_noticed(place, run) -> None:
    here, there = place("folder"), place("s3")
    fill(here, {"a": b"right"})

    def corrupt(request, **arguments) -> None:
        request.body = b"wrong"

    there.client.meta.events.register("before-send.s3.PutObject", corrupt)
    with pytest.raises(StoreError, match="a of s3://.*/data did not arrive whole"):
        run(here, there)


def test_a_gcs_write_carries_its_condition(
    place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The emulator ignores the condition of compose, so it is the request that is looked at.
    there, seen = place("gs"), []
    compose = storage.Blob.compose

    def watch(blob, parts, **options):
        seen.append(options)
        return compose(blob, parts, **options)

    monkeypatch.setattr(storage.Blob, "compose", watch)
    data = b"x" * (PART + 1)
    file = tmp_path / "file"
    file.write_bytes(data)
    token = there.put(file, "a", sha256(data).hexdigest(), None)
    there.put(file, "a", sha256(data).hexdigest(), token)
    assert seen == [{"if_generation_match": 0}, {"if_generation_match": int(token)}]


@pytest.mark.parametrize("target", ["s3", "gs"])
def test_private_objects_do_not_leave_the_site(place, run, target: str) -> None:
    here, there = place("onprem"), place(target)
    fill(here, FILES | {"deep/.residency": b"", "d.txt": b"d", "d.txt.residency": b""})
    with pytest.raises(ResidencyError, match=r"d.txt \(and .* more\) in onprem://.* is labelled"):
        run(here, there)
    assert contents(there) == {}
    done = run(here, there, skip_private=True)
    assert done.copied == ["a.txt"] and list(contents(there)) == ["a.txt"]
    assert {"d.txt", "deep/b.bin", "deep/er/c"} < set(done.private)
    inner = next(open_objects(f"{here.address}/deep/er/x", onprem=OnPrem(here.endpoint)).above())
    with pytest.raises(ResidencyError):  # labelled by a folder around it
        run(inner, there)


def test_within_the_site_labels_go_along_and_first(place, run) -> None:
    here, there = place("folder"), place("onprem")
    fill(here, FILES | {"deep/.residency": b""})
    puts = calls(there, "PutObject")
    run(here, there)
    assert puts[0]["Key"] == "data/deep/.residency" and len(puts) == 4


def test_names_that_would_lead_out_of_a_folder_are_refused(place, run, tmp_path: Path) -> None:
    here, there = place("s3"), place("folder")
    fill(here, {"../../evil": b"evil"})
    with pytest.raises(StoreError, match="No file can have the name '../../evil'"):
        run(here, there)
    assert not list(tmp_path.rglob("evil"))


def test_two_syncs_of_the_same_two_places_do_not_meet(place, run) -> None:
    here, there = place("folder"), place("folder")
    fill(here, FILES)
    progress = []

    def second(*step) -> None:
        progress.append(step)
        with pytest.raises(StoreError, match="Another sync from .* is at work"):
            run(here, there)

    assert run(here, there, progress=second).copied == sorted(FILES)
    assert progress[-1] == (3003, 3003, "0.0 of 0.0 MB")


def test_a_place_that_is_both_or_empty_is_named(place, run) -> None:
    here = place("s3")
    with pytest.raises(StoreError, match="both source and target"):
        run(here, here)
    with pytest.raises(StoreError, match="no objects under s3://"):
        run(here, place("folder"))


def test_a_folder_object_is_replaced_only_at_its_version(place, tmp_path: Path) -> None:
    there = place("folder")
    file = tmp_path / "file"
    file.write_bytes(b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    token = there.put(file, "a", empty, None)
    for wrong in (None, f"{token}0"):
        with pytest.raises(ConflictError):
            there.put(file, "a", empty, wrong)
    file.write_bytes(b"changed")
    with pytest.raises(StoreError, match="changed while it was stored"):
        there.put(file, "a", empty, token)


def calls(objects: Objects, operation: str) -> list[dict]:
    """The parameters of an operation's calls from now on."""
    seen: list[dict] = []
    objects.client.meta.events.register(
        f"provide-client-params.s3.{operation}", lambda params, **rest: seen.append(params)
    )
    return seen
