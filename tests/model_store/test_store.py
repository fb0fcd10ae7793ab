"""What every store must do; each test runs on a folder, on S3 and on GCS."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from model_store.errors import StoreError
from model_store.factory import open_store
from model_store.manifest import digest_of
from model_store.objects import Entry
from model_store.signing import add_signature
from model_store.store import Store

Make = Callable[..., Path]
Reopen = Callable[[], Store]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_model_comes_back_as_it_was(
    store: Store, reopen: Reopen, make_model: Make, tmp_path: Path
) -> None:
    folder = make_model()
    digest = store.put(folder, lineage={"data": "abc", "epochs": 3})
    target = reopen().get(digest, tmp_path / "deep" / "target")
    assert contents(target) == contents(folder)
    assert reopen().manifest(digest).lineage == {"data": "abc", "epochs": 3}


def test_the_digest_is_the_hash_of_the_stored_manifest(store: Store, make_model: Make) -> None:
    digest = store.put(make_model(), lineage={})
    assert re.fullmatch("sha256:[0-9a-f]{64}", digest)
    assert digest_of(store.manifest(digest).to_bytes()) == digest


def test_the_same_content_is_stored_once(store: Store, make_model: Make) -> None:
    first = store.put(make_model(), lineage={"seed": 1, "data": "x"})
    blobs = {entry.key: entry.modified for entry in store.objects.entries("blobs/")}
    assert store.put(make_model(), lineage={"data": "x", "seed": 1}) == first
    assert {entry.key: entry.modified for entry in store.objects.entries("blobs/")} == blobs
    assert [record.digest for record in store.list()] == [first]


def test_other_lineage_is_another_model_of_the_same_blobs(store: Store, make_model: Make) -> None:
    folder = make_model()
    assert store.put(folder, lineage={"run": 1}) != store.put(folder, lineage={"run": 2})
    assert len(store.list()) == 2
    assert len(list(store.objects.entries("blobs/"))) == 3


def test_several_may_store_the_same_at_once(
    reopen: Reopen, make_model: Make, tmp_path: Path
) -> None:
    folder = make_model()
    with ThreadPoolExecutor(4) as pool:
        digests = set(pool.map(lambda _: reopen().put(folder, lineage={}), range(4)))
    assert len(digests) == 1
    target = reopen().get(digests.pop(), tmp_path / "target")
    assert contents(target) == contents(folder)


def test_a_blob_cut_short_is_replaced_by_the_next_put(
    store: Store, make_model: Make, tmp_path: Path
) -> None:
    folder = make_model()
    digest = store.put(folder, lineage={})
    break_blob(store, folder / "weights.safetensors", tmp_path, b"short")
    store.put(folder, lineage={})
    assert contents(store.get(digest, tmp_path / "target")) == contents(folder)


def test_a_corrupt_file_refuses_to_load(store: Store, make_model: Make, tmp_path: Path) -> None:
    folder = make_model()
    digest = store.put(folder, lineage={})
    original = (folder / "weights.safetensors").read_bytes()
    wrong = b"X" + original[1:]
    break_blob(store, folder / "weights.safetensors", tmp_path, wrong)
    with pytest.raises(StoreError) as error:
        store.get(digest, tmp_path / "out" / "target")
    for part in (
        "weights.safetensors",
        hashlib.sha256(original).hexdigest(),
        hashlib.sha256(wrong).hexdigest(),
    ):
        assert part in str(error.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_missing_file_refuses_to_load(store: Store, tmp_path: Path) -> None:
    entry = '{"name":"w","sha256":"%s","size":1}' % ("0" * 64)
    digest = plant(store, f'{{"files":[{entry}],"format":1,"lineage":{{}}}}'.encode())
    with pytest.raises(StoreError, match="its file w is missing"):
        store.get(digest, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_changed_manifest_refuses_to_load(
    store: Store, make_model: Make, tmp_path: Path
) -> None:
    digest = store.put(make_model(), lineage={"data": "clean"})
    key = f"manifests/{digest[7:]}.json"
    data, token = store.objects.read(key)
    assert store.objects.swap(key, data.replace(b"clean", b"dirty"), token)
    with pytest.raises(StoreError, match="manifest .* is corrupt: expected sha256:.* got sha256:"):
        store.get(digest, tmp_path / "target")


def test_a_hostile_manifest_cannot_write_outside(store: Store, tmp_path: Path) -> None:
    payload = tmp_path / "payload"
    payload.write_bytes(b"evil")
    sha = hashlib.sha256(b"evil").hexdigest()
    store.objects.put(payload, f"blobs/{sha}", sha, None)
    entry = '{"name":"../evil","sha256":"%s","size":4}' % sha
    digest = plant(store, f'{{"files":[{entry}],"format":1,"lineage":{{}}}}'.encode())
    with pytest.raises(StoreError, match="'../evil' is not safe"):
        store.get(digest, tmp_path / "out" / "target")
    assert not list(tmp_path.rglob("evil"))


def test_a_target_in_use_is_left_alone(store: Store, make_model: Make, tmp_path: Path) -> None:
    digest = store.put(make_model(), lineage={})
    target = tmp_path / "target"
    target.mkdir()
    (target / "mine").write_text("keep")
    with pytest.raises(StoreError, match="exists already"):
        store.get(digest, target)
    assert contents(target) == {"mine": b"keep"}


def test_references(store: Store, make_model: Make) -> None:
    digest = store.put(make_model(), lineage={})
    store.move_channel("candidate", digest)
    for reference in (digest, digest[7:], digest[7:13], digest[:20], "candidate"):
        assert store.resolve(reference) == digest


@pytest.mark.parametrize(
    "reference", ["abcde", "no-such", "sha256:", "production", "0" * 64, "../x"]
)
def test_unknown_references_tell_what_exists(
    store: Store, make_model: Make, reference: str
) -> None:
    digest = store.put(make_model(), lineage={})
    store.move_channel("canary", digest)
    with pytest.raises(StoreError) as error:
        store.resolve(reference)
    assert f"The store has: {digest[7:19]} (canary)." in str(error.value)


def test_an_empty_store_says_so(store: Store) -> None:
    assert store.list() == []
    assert store.channels() == {}
    with pytest.raises(StoreError, match="The store is empty"):
        store.resolve("production")


def test_an_ambiguous_prefix_names_both(store: Store) -> None:
    for last in "01":
        store.objects.swap(f"manifests/{'ab' * 31}c{last}.json", b"{}", None)
    with pytest.raises(StoreError, match="means several models"):
        store.resolve("ababab")


def test_list_tells_size_channels_and_lineage(store: Store, make_model: Make) -> None:
    digest = store.put(make_model("one"), lineage={"rounds": 2})
    store.put(make_model("two"), lineage={})
    store.move_channel("candidate", digest)
    store.move_channel("production", digest)
    record = next(record for record in store.list() if record.digest == digest)
    assert record.size == 3000 + 10 + 5
    assert record.channels == ("candidate", "production")
    assert record.lineage == {"rounds": 2}
    assert record.created.tzinfo is not None
    created = [record.created for record in store.list()]
    assert created == sorted(created, reverse=True)


def test_a_channel_moves_only_from_where_it_was_expected(store: Store, make_model: Make) -> None:
    one, two = (store.put(make_model(text), lineage={}) for text in ("one", "two"))
    store.move_channel("production", one, expected=None)
    with pytest.raises(StoreError, match="somebody moved it"):
        store.move_channel("production", two, expected=None)
    with pytest.raises(StoreError, match=f"points to {one}, not to {two}"):
        store.move_channel("production", two, expected=two)
    assert store.channels() == {"production": one}
    store.move_channel("production", two, expected=one)
    assert store.channels() == {"production": two}


@pytest.mark.relies_on("S3 PutObject heeds If-Match")
@pytest.mark.relies_on("GCS an upload heeds its generation match", on="fake-gcs-server")
@pytest.mark.parametrize("expected", ["given", "left out"])
def test_a_rival_between_read_and_write_wins(
    store: Store,
    reopen: Reopen,
    make_model: Make,
    monkeypatch: pytest.MonkeyPatch,
    expected: str,
) -> None:
    one, two, three = (store.put(make_model(text), lineage={}) for text in ("one", "two", "three"))
    store.move_channel("production", one)
    read = store.objects.read

    def read_then_be_overtaken(key: str) -> tuple[bytes, str] | None:
        found = read(key)
        monkeypatch.setattr(store.objects, "read", read)
        reopen().move_channel("production", two, expected=one)
        return found

    condition = {"expected": one} if expected == "given" else {}
    monkeypatch.setattr(store.objects, "read", read_then_be_overtaken)
    with pytest.raises(StoreError, match=f"points to {two}, not to {one}"):
        store.move_channel("production", three, **condition)
    assert store.channels() == {"production": two}


@pytest.mark.relies_on("S3 PutObject heeds If-None-Match")
@pytest.mark.relies_on("GCS an upload heeds its generation match", on="fake-gcs-server")
def test_a_rival_that_creates_the_channel_first_wins(
    store: Store, reopen: Reopen, make_model: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (store.put(make_model(text), lineage={}) for text in ("one", "two"))
    read = store.objects.read

    def read_then_be_overtaken(key: str) -> tuple[bytes, str] | None:
        found = read(key)
        monkeypatch.setattr(store.objects, "read", read)
        reopen().move_channel("production", two)
        return found

    monkeypatch.setattr(store.objects, "read", read_then_be_overtaken)
    with pytest.raises(StoreError, match=f"points to {two}, not to nothing"):
        store.move_channel("production", one)


def test_unknown_channels_and_models_are_refused(store: Store, make_model: Make) -> None:
    digest = store.put(make_model(), lineage={})
    known = "candidate, staging, canary, production, production-search"
    with pytest.raises(StoreError, match=f"no channel 'prod': use {known}"):
        store.move_channel("prod", digest)
    with pytest.raises(StoreError, match="There is no model"):
        store.move_channel("production", "sha256:" + "0" * 64)
    assert store.channels() == {}


def test_a_file_that_changes_while_stored_is_refused(
    store: Store, make_model: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_model()
    entry = store.objects.entry

    def ask_then_change(key: str) -> Entry | None:
        (folder / "weights.safetensors").write_bytes(b"another training step")
        return entry(key)

    monkeypatch.setattr(store.objects, "entry", ask_then_change)
    with pytest.raises(StoreError, match="weights.safetensors changed while it was stored"):
        store.put(folder, lineage={})
    assert store.list() == []


def test_a_large_file_goes_up_and_down(store: Store, tmp_path: Path) -> None:
    # Above the size at which both cloud clients change to uploads in parts.
    folder = tmp_path / "large"
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(bytes(range(256)) * 2**15 * 3)
    digest = store.put(folder, lineage={})
    assert contents(store.get(digest, tmp_path / "target")) == contents(folder)


def break_blob(store: Store, file: Path, tmp_path: Path, data: bytes) -> None:
    """Overwrite the stored copy of a file behind the store's back."""
    wrong = tmp_path / "wrong"
    wrong.write_bytes(data)
    key = f"blobs/{hashlib.sha256(file.read_bytes()).hexdigest()}"
    found = store.objects.entry(key)
    assert found
    store.objects.put(wrong, key, hashlib.sha256(data).hexdigest(), found.token)


def plant(store: Store, manifest: bytes) -> str:
    """Store a manifest that `put` would never write; its hash and its signature are right."""
    digest = digest_of(manifest)
    add_signature(store.objects, digest, store.keys)
    assert store.objects.swap(f"manifests/{digest[7:]}.json", manifest, None)
    return digest
