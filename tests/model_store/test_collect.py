"""Garbage collection: nothing that is needed goes, whatever runs meanwhile; the rest does."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store import holds
from model_store.collect import collect, garbage
from model_store.errors import StoreError
from model_store.folder import FolderObjects
from model_store.holds import LOCK, hold
from model_store.manifest import FileEntry, Manifest
from model_store.objects import Entry
from model_store.signing import Keyring
from model_store.store import Store

Make = Callable[..., Path]
AT_ONCE = timedelta()


@st.composite
def stores(draw: st.DrawFn):
    """Models that are made from one another and share blobs; roots and kept blobs among them."""
    blobs = [f"{number:064x}" for number in range(draw(st.integers(1, 8)))]
    models: dict[str, Manifest] = {}
    for number in range(draw(st.integers(0, 8))):
        parent = draw(st.none() | st.sampled_from([*models, "sha256:" + "f" * 64]))
        files = draw(st.lists(st.sampled_from(blobs), max_size=3, unique=True))
        models[f"sha256:{number:064x}"] = Manifest(
            tuple(FileEntry(f"f{i}", 1, sha256) for i, sha256 in enumerate(files)),
            {"parent": parent} if parent else {},
        )
    roots = draw(st.sets(st.sampled_from([*models, "sha256:" + "e" * 64]), max_size=3))
    kept = draw(st.sets(st.sampled_from(blobs), max_size=2))
    return models, {blob: 1 for blob in blobs}, roots, kept


@settings(max_examples=80)
@given(stores())
def test_gone_is_exactly_what_no_root_rests_on(drawn) -> None:
    models, blobs, roots, kept = drawn
    found = garbage(models, blobs, roots=roots, kept_blobs=kept)

    def ancestors(model: str | None) -> set[str]:
        if model not in models:
            return set()
        return {model} | ancestors(models[model].lineage.get("parent"))

    needed = set().union(*(ancestors(root) for root in roots))
    used = {file.sha256 for model in needed for file in models[model].files} | kept
    assert set(found.models) == models.keys() - needed
    assert set(found.blobs) == blobs.keys() - used
    assert found.bytes == len(found.blobs)


def put(store: Store, make_model: Make, text: str, **lineage: str) -> str:
    return store.put(make_model(text), lineage=lineage)


def test_channels_rollbacks_and_lineage_keep_their_models(
    store: Store, make_model: Make, tmp_path: Path
) -> None:
    root = put(store, make_model, "root")
    child = put(store, make_model, "child", parent=root)
    before, current, loose = (put(store, make_model, text) for text in ("before", "now", "loose"))
    for model in (before, child, current):
        store.move_channel("production", model)
    assert collect(store, keep=timedelta(days=1)).models == ()
    told = collect(store, keep=AT_ONCE, rollbacks=1, dry_run=True)
    done = collect(store, keep=AT_ONCE, rollbacks=1)
    assert set(done.models) == {before, loose} == set(told.models)
    assert done.bytes == 6 * 1000 + 5 * 1000 and len(done.blobs) == 2
    assert {record.digest for record in store.list()} == {root, child, current}
    for model in (root, child, current):
        store.get(model, tmp_path / model[7:])
    assert store.rollback("production") == (child, current)
    left = [entry.key for entry in store.objects.entries()]
    assert not any(loose[7:] in key for key in left) and LOCK not in left
    assert not any(key.startswith(holds.HOLDS) for key in left)


def test_what_cannot_be_read_stops_it_before_anything_goes(
    tmp_path: Path, make_model: Make, keys: Keyring
) -> None:
    store = Store(FolderObjects(tmp_path / "store"), keys)
    damaged, loose = (put(store, make_model, text) for text in ("damaged", "loose"))
    (tmp_path / "store" / "manifests" / f"{damaged[7:]}.json").write_text("{}")
    with pytest.raises(StoreError, match=f"manifest of model {damaged} is corrupt"):
        collect(store, keep=AT_ONCE)
    assert store.manifest(loose).files and store.objects.read(LOCK) is None


def test_files_of_a_model_that_a_channel_lost_are_not_taken_for_garbage(
    tmp_path: Path, make_model: Make, keys: Keyring
) -> None:
    store = Store(FolderObjects(tmp_path / "store"), keys)
    lost, other = (put(store, make_model, text) for text in ("lost", "other"))
    store.move_channel("production", lost)
    manifest = tmp_path / "store" / "manifests" / f"{lost[7:]}.json"
    kept = manifest.rename(tmp_path / "kept")
    with pytest.raises(StoreError, match=f"'production' points to {lost}, whose manifest is gone"):
        collect(store, keep=AT_ONCE)
    kept.rename(manifest)
    assert collect(store, keep=AT_ONCE).models == (other,)
    assert store.get("production", tmp_path / "back").is_dir()


def test_a_clock_that_was_put_back_keeps_more_not_less(
    tmp_path: Path, make_model: Make, keys: Keyring
) -> None:
    store = Store(FolderObjects(tmp_path / "store"), keys)
    put(store, make_model, "one")
    later = time.time() + 1e6
    for path in (tmp_path / "store").rglob("*"):
        if path.is_file():
            os.utime(path, (later, later))
    assert collect(store, keep=AT_ONCE).models == ()


class Watched(FolderObjects):
    """Objects that call `meanwhile` once, before the operation with the number `at`."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.at, self.done, self.meanwhile = -1, 0, lambda: None

    def step(self) -> None:
        self.done += 1
        if self.done == self.at:
            self.meanwhile()

    def read(self, key: str) -> tuple[bytes, str] | None:
        self.step()
        return super().read(key)

    def swap(self, key: str, data: bytes, token: str | None) -> bool:
        self.step()
        return super().swap(key, data, token)

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        self.step()
        yield from super().entries(prefix)

    def put(self, *arguments) -> str:
        self.step()
        return super().put(*arguments)

    def remove(self, key: str) -> None:
        self.step()
        super().remove(key)


@pytest.mark.parametrize("writer", ["store", "promote"])
@pytest.mark.parametrize("first", ["collection", "writer"])
def test_a_writer_and_a_collection_that_meet_anywhere_leave_whole_models(
    tmp_path: Path,
    make_model: Make,
    keys: Keyring,
    monkeypatch: pytest.MonkeyPatch,
    writer: str,
    first: str,
) -> None:
    """At each operation of the one, the other runs from beginning to end."""
    monkeypatch.setattr(holds, "WAIT_SECONDS", 0)
    monkeypatch.setattr("model_store.folder.sync_file", lambda path: None)
    monkeypatch.setattr("model_store.folder.sync_folder", lambda path: None)
    folder = make_model("shared")
    met, at = set(), 0
    while True:
        at += 1
        objects = Watched(tmp_path / f"{at}")
        watched, other = Store(objects, keys), Store(FolderObjects(objects.root), keys)
        loose = other.put(folder, lineage={"run": "old"})
        came: dict[str, str] = {}

        def write(store: Store) -> None:
            try:
                if writer == "store":  # the same blobs as the model that goes
                    came["model"] = store.put(folder, lineage={"run": "new"})
                else:
                    store.move_channel("staging", loose)
                    came["model"] = loose
            except StoreError as error:
                came["refused"] = str(error)

        jobs = [lambda store: collect(store, keep=AT_ONCE), write]
        if first == "writer":
            jobs.reverse()
        objects.at, objects.meanwhile = at, lambda: jobs[1](other)
        jobs[0](watched)
        if objects.done < at:
            break
        met |= came.keys()
        there = {record.digest for record in other.list()}
        for model in there:
            other.get(model, tmp_path / f"got{at}" / model[7:])
        assert set(other.channels().values()) <= there
        # Nothing points to a model that has just been stored: only a collection that begins later,
        # and keeps nothing for its age, may take it.
        if first == "writer" and "model" in came:
            assert came["model"] in there
        assert other.objects.read(LOCK) is None
    assert at > 5 and "model" in met
    if first == "collection":
        assert "refused" in met


def test_what_a_killed_writer_named_is_spared_until_it_is_taken_for_dead(
    tmp_path: Path, make_model: Make, keys: Keyring
) -> None:
    store = Store(FolderObjects(tmp_path / "store"), keys)
    loose = put(store, make_model, "loose")
    with hold(store.objects, models=[loose]) as key:
        data, _ = store.objects.read(key)
    store.objects.swap(key, data, None)  # as if it had been killed
    assert collect(store, keep=AT_ONCE).models == ()
    long_ago = time.time() - 8 * 86_400
    os.utime(tmp_path / "store" / key, (long_ago, long_ago))
    assert collect(store, keep=AT_ONCE).models == ()
    assert collect(store, keep=AT_ONCE).models == (loose,)


def test_an_upload_that_was_given_up_does_not_pass_for_stored(
    tmp_path: Path, make_model: Make, keys: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(FolderObjects(tmp_path / "store"), keys)
    put_file = store.objects.put

    def slow(*arguments):
        for entry in list(store.objects.entries(holds.HOLDS)):
            store.objects.remove(entry.key)
        return put_file(*arguments)

    monkeypatch.setattr(store.objects, "put", slow)
    with pytest.raises(StoreError, match="took so long that a garbage collection gave it up"):
        put(store, make_model, "one")


def test_the_lock_of_a_collection_that_died_is_taken_over(
    tmp_path: Path, make_model: Make, keys: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holds, "WAIT_SECONDS", 0)
    store = Store(FolderObjects(tmp_path / "store"), keys)
    process = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(process, 0)
    here = f'{{"host": "{os.uname().nodename}", "pid": {process}, "id": ""}}'
    store.objects.swap(LOCK, here.encode(), None)
    with pytest.raises(StoreError, match=f"process {process} of .*run hybrid models gc"):
        put(store, make_model, "one")
    collect(store)
    put(store, make_model, "one")
    store.objects.swap(LOCK, b'{"host": "elsewhere", "pid": 1, "id": ""}', None)
    with pytest.raises(StoreError, match="process 1 of elsewhere.*--break-lock"):
        collect(store)
    collect(store, break_lock=True)
    assert store.objects.read(LOCK) is None
