"""Stores that answer slowly, partly or wrongly, disks that are full, uploads that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from model_store.errors import StoreError
from model_store.factory import open_store
from model_store.folder import FolderObjects
from model_store.objects import PART
from model_store.patience import LEAST_BYTES, patiently
from model_store.s3 import S3Objects
from model_store.signing import Keyring
from model_store.store import Store
from tests.model_store.faults import Between, between

Make = Callable[..., Path]


@pytest.fixture(params=["s3", "gs"])
def spoilt(request: pytest.FixtureRequest, keys: Keyring) -> Iterator[tuple[Store, Between]]:
    """A new store, and the server through which it is reached."""
    bucket = f"faults-{uuid.uuid4().hex}"
    endpoint = request.getfixturevalue({"s3": "moto_endpoint", "gs": "gcs_endpoint"}[request.param])
    if request.param == "s3":
        boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(
            Bucket=bucket
        )
    else:
        storage.Client(
            project="test",
            credentials=AnonymousCredentials(),
            client_options={"api_endpoint": endpoint},
        ).create_bucket(bucket)
    with between(endpoint) as server:
        address = f"{request.param}://{bucket}/models"
        yield open_store(address, endpoint=server.endpoint, keys=keys), server


def is_blob(method: str, path: str) -> bool:
    return method == "GET" and ("/blobs/" in path or "blobs%2F" in path) and "?prefix" not in path


def test_an_answer_that_breaks_off_is_gone_on_with(
    spoilt: tuple[Store, Between], make_model: Make, tmp_path: Path
) -> None:
    store, server = spoilt
    folder = make_model()
    digest = store.put(folder, lineage={})
    cut: list[int] = []

    def half(method: str, path: str, body: bytes) -> bytes:
        if is_blob(method, path) and len(body) == 3000 and not cut:
            cut.append(len(body))
            return body[:1500]
        return body

    server.fault = half
    got = store.get(digest, tmp_path / "target")
    assert cut == [3000]
    weights = "weights.safetensors"
    assert (got / weights).read_bytes() == (folder / weights).read_bytes()


# Google's client goes on asking for two minutes by itself.
@pytest.mark.parametrize("spoilt", ["s3"], indirect=True)
def test_an_answer_that_always_breaks_off_is_a_sentence(
    spoilt: tuple[Store, Between], make_model: Make, tmp_path: Path
) -> None:
    store, server = spoilt
    digest = store.put(make_model(), lineage={})
    server.fault = lambda method, path, body: b"" if is_blob(method, path) else body
    with pytest.raises(StoreError, match="does not work|did not arrive whole"):
        store.get(digest, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_an_answer_with_other_bytes_is_refused(
    spoilt: tuple[Store, Between], make_model: Make, tmp_path: Path
) -> None:
    store, server = spoilt
    digest = store.put(make_model(), lineage={})
    server.fault = lambda method, path, body: (
        b"X" + body[1:] if is_blob(method, path) and body else body
    )
    with pytest.raises(StoreError, match="is corrupt|did not arrive whole"):
        store.get(digest, tmp_path / "target")
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("spoilt", ["s3"], indirect=True)
def test_a_store_that_does_not_answer_is_asked_again_and_then_named(
    spoilt: tuple[Store, Between], make_model: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, server = spoilt
    digest = store.put(make_model(), lineage={})
    objects = S3Objects(
        store.objects.bucket_name, "models", endpoint=server.endpoint, answer_seconds=0.5
    )
    impatient = Store(objects)
    silent: list[str] = []

    def silent_once(method: str, path: str, body: bytes) -> bytes | None:
        if "/manifests/" in path and not silent:
            silent.append(path)
            return None
        return body

    server.fault = silent_once
    assert impatient.manifest(digest).lineage == {} and silent
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda seconds: None)
    server.fault = lambda method, path, body: None
    with pytest.raises(StoreError, match="s3://.* does not work: Read timeout"):
        impatient.manifest(digest)


# A byte now and then: no time-out of a socket ever runs out.
@pytest.mark.parametrize("what", ["blobs", "manifests", "list"])
def test_a_store_that_trickles_is_given_up(
    spoilt: tuple[Store, Between], make_model: Make, tmp_path: Path, what: str
) -> None:
    store, server = spoilt
    digest = store.put(make_model(), lineage={})

    def trickle(method: str, path: str, body: bytes) -> bytes | list[bytes]:
        listing = "prefix=" in path
        wanted = listing if what == "list" else what in path and not listing
        return [bytes([byte]) for byte in body] if method == "GET" and wanted else body

    server.fault = trickle
    store.objects.patience = 0.5
    with pytest.raises(StoreError, match=r"The store (s3|gs)://faults-.* answers too slowly: "):
        store.get(digest[7:30], tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_what_goes_on_fast_enough_may_last() -> None:
    done = threading.Event()
    sizes = iter(range(0, 10**9, LEAST_BYTES))

    def arrived() -> int:
        size = next(sizes)
        if size == 3 * LEAST_BYTES:
            done.set()
        return size

    assert patiently(done.wait, "s3://shop", arrived, seconds=0.01)


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_a_full_disk_is_a_sentence_and_leaves_nothing_half(tmp_path: Path, keys: Keyring) -> None:
    # A process may write files of 100 kB at most: the kernel refuses the rest, as a full disk does.
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_bytes(b"w" * 200_000)
    digest = open_store(str(tmp_path / "whole"), keys=keys).put(model, lineage={})
    start = "\n".join([
        "import resource, sys",
        "from pathlib import Path",
        "from model_store.errors import StoreError",
        "from model_store.factory import open_store",
        "from model_store.signing import Keyring",
        f"keys = Keyring(Path({str(keys.folder)!r}))",
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))",
    ])  # fmt: skip
    for call in (
        f"open_store({str(tmp_path / 'new')!r}).put(Path({str(model)!r}), lineage={{}})",
        f"open_store({str(tmp_path / 'whole')!r}, keys=keys)"
        f".get({digest!r}, Path({str(tmp_path / 'x')!r}))",
    ):
        done = run(f"{start}\ntry: {call}\nexcept StoreError as error: sys.exit(str(error))")
        assert done.returncode == 1 and "File too large" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
    new = open_store(str(tmp_path / "new"))
    assert new.list() == [] and list(new.objects.entries("blobs/")) == []
    assert not (tmp_path / "x").exists()


def test_of_two_disks_the_full_one_is_named(tmp_path: Path) -> None:
    objects = FolderObjects(tmp_path / "store")
    assert objects.swap("model", b"x" * 100_000, None)
    with pytest.raises(StoreError, match="^The disk of /dev is full: make room there"):
        objects.fetch("model", Path("/dev/full"))


def test_a_killed_upload_to_s3_goes_on_from_any_machine(
    moto_endpoint: str, tmp_path: Path, keys: Keyring
) -> None:
    bucket = f"resume-{uuid.uuid4().hex}"
    boto3.client("s3", endpoint_url=moto_endpoint, region_name="us-east-1").create_bucket(
        Bucket=bucket
    )
    (tmp_path / "model").mkdir()
    large = os.urandom(2 * PART + 10)
    (tmp_path / "model" / "weights").write_bytes(large)
    opened = f"open_store('s3://{bucket}/models', endpoint={moto_endpoint!r})"
    done = run(f"""if True:
        import os, signal
        from pathlib import Path
        from model_store.factory import open_store
        store = {opened}
        def kill(**arguments):
            if "partNumber=2" in arguments["request"].url:
                os.kill(os.getpid(), signal.SIGKILL)
        store.objects.client.meta.events.register("before-send.s3.UploadPart", kill)
        store.put(Path({str(tmp_path / "model")!r}), lineage={{}})
    """)
    assert done.returncode == -signal.SIGKILL, done.stderr
    store = open_store(f"s3://{bucket}/models", endpoint=moto_endpoint, keys=keys)
    parts: list[int] = []
    store.objects.client.meta.events.register(
        "provide-client-params.s3.UploadPart",
        lambda params, **_: parts.append(params["PartNumber"]),
    )
    digest = store.put(tmp_path / "model", lineage={})
    assert parts == [2, 3]
    assert (store.get(digest, tmp_path / "got") / "weights").read_bytes() == large
    assert store.put(tmp_path / "model", lineage={}) == digest and parts == [2, 3]
