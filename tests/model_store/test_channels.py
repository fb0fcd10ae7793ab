"""Channels: history, rollback, and promotions that meet."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.channels import KEPT, Move, read_moves, stack, write_moves
from model_store.errors import StoreError
from model_store.factory import open_store
from model_store.folder import FolderObjects
from model_store.store import Store

Make = Callable[..., Path]
RIVALS, ROUNDS = 3, 4


@pytest.fixture(scope="module")
def strict_s3() -> Iterator[str]:
    """Address of a moto server that answers one request at a time: its check and its write of a
    conditional PutObject are two steps, which S3 does as one."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


@pytest.mark.relies_on("S3 PutObject heeds If-Match")
@pytest.mark.relies_on("S3 PutObject heeds If-None-Match")
@pytest.mark.relies_on("GCS an upload heeds its generation match", on="fake-gcs-server")
@pytest.mark.parametrize("kind", ["folder", "s3", "gs"])
def test_of_promotions_that_meet_exactly_one_wins(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, make_model: Make
) -> None:
    address, endpoint = str(tmp_path / "store"), None
    bucket = f"race-{uuid.uuid4().hex}"
    if kind == "s3":
        address, endpoint = f"s3://{bucket}/models", request.getfixturevalue("strict_s3")
        boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(
            Bucket=bucket
        )
    elif kind == "gs":
        address, endpoint = f"gs://{bucket}/models", request.getfixturevalue("gcs_endpoint")
        open_store(address, endpoint=endpoint).objects.bucket.create()
    stores = [open_store(address, endpoint=endpoint) for _ in range(RIVALS)]
    digests = [stores[0].put(make_model(str(i)), lineage={}) for i in range(RIVALS)]
    start = threading.Barrier(RIVALS)

    def promote(rival: int, before: str | None, model: str) -> str | None:
        start.wait()
        try:
            stores[rival].move_channel("production", model, expected=before)
        except StoreError as error:
            assert "somebody moved it" in str(error)
            return None
        return model

    before = None
    won = []
    with ThreadPoolExecutor(RIVALS) as pool:
        for turn in range(ROUNDS):
            # In the odd rounds all of them want the same model: still only one may have moved it.
            others = [digest for digest in digests if digest != before]
            wanted = (others[: 1 if turn % 2 else None] * RIVALS)[:RIVALS]
            winners = [w for w in pool.map(promote, range(RIVALS), [before] * RIVALS, wanted) if w]
            assert len(winners) == 1, (turn, winners)
            before = winners[0]
            won.append(before)
            assert stores[0].channels() == {"production": before}
    assert [move.model for move in stores[0].history("production")] == won


def test_of_processes_that_promote_at_once_exactly_one_wins(
    tmp_path: Path, make_model: Make
) -> None:
    address = str(tmp_path / "store")
    store = open_store(address)
    digests = [store.put(make_model(str(i)), lineage={}) for i in range(3)]
    code = f"""if True:
        import sys
        from model_store.errors import StoreError
        from model_store.factory import open_store
        store = open_store({address!r})
        print("ready", flush=True)
        sys.stdin.readline()
        try: store.move_channel("production", sys.argv[1], expected=None)
        except StoreError: sys.exit(1)
    """
    rivals = [
        subprocess.Popen([sys.executable, "-c", code, digest], text=True, stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE)
        for digest in digests
    ]  # fmt: skip
    for rival in rivals:
        assert rival.stdout.readline() == "ready\n"
    for rival in rivals:
        rival.stdin.write("\n")
        rival.stdin.flush()
    for rival in rivals:
        rival.communicate()
    codes = [rival.returncode for rival in rivals]
    assert sorted(codes) == [0, 1, 1]
    assert store.channels() == {"production": digests[codes.index(0)]}


def test_history_and_rollback(store: Store, make_model: Make) -> None:
    one, two, three = (store.put(make_model(text), lineage={}) for text in ("one", "two", "three"))
    for digest in (one, two, two, three):
        store.move_channel("production", digest)
    moves = store.history("production")
    assert [move.model for move in moves] == [one, two, three]
    assert all(move.at and not move.back for move in moves)
    assert store.rollback("production") == (two, three)
    assert store.rollback("production", expected=two) == (one, two)
    with pytest.raises(StoreError, match="no model before"):
        store.rollback("production")
    with pytest.raises(StoreError, match=f"points to {one}, not to {two}"):
        store.rollback("production", expected=two)
    assert store.channels() == {"production": one}
    store.move_channel("production", three)
    assert store.rollback("production") == (one, three)
    with pytest.raises(StoreError, match="no model before"):
        store.rollback("staging")


def test_a_rollback_that_a_promotion_overtakes_loses(
    tmp_path: Path, make_model: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path / "store"))
    one, two, three = (store.put(make_model(text), lineage={}) for text in ("one", "two", "three"))
    for digest in (one, two):
        store.move_channel("production", digest)
    read = store.objects.read

    def read_then_be_overtaken(key: str) -> tuple[bytes, str] | None:
        found = read(key)
        monkeypatch.setattr(store.objects, "read", read)
        open_store(str(tmp_path / "store")).move_channel("production", three)
        return found

    monkeypatch.setattr(store.objects, "read", read_then_be_overtaken)
    with pytest.raises(StoreError, match="somebody moved it"):
        store.rollback("production")
    assert store.channels() == {"production": three}


def test_a_channel_of_before_there_was_history_goes_on(tmp_path: Path, make_model: Make) -> None:
    store = open_store(str(tmp_path / "store"))
    one, two = (store.put(make_model(text), lineage={}) for text in ("one", "two"))
    assert store.objects.swap("channels/production", f"{one}\n".encode(), None)
    assert store.channels() == {"production": one}
    store.move_channel("production", two, expected=one)
    assert store.rollback("production") == (one, two)


def test_a_clock_that_was_put_back_changes_no_order(tmp_path: Path, make_model: Make) -> None:
    store = open_store(str(tmp_path / "store"))
    one, two = (store.put(make_model(text), lineage={}) for text in ("one", "two"))
    later = Move(one, at="2999-01-01T00:00:00+00:00")
    assert write_moves(store.objects, "production", [later], None)
    store.move_channel("production", two)
    assert store.channels() == {"production": two}
    assert store.rollback("production") == (one, two)


def test_something_else_in_a_channel_is_a_sentence(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    for content in (b"{", b"[]", b'{"model": 1, "x": 2}', b"\xff"):
        found = store.objects.read("channels/production")
        store.objects.swap("channels/production", content, found and found[1])
        with pytest.raises(StoreError, match="'production' in .* holds something else than moves"):
            store.channels()


def test_only_the_last_moves_are_kept(tmp_path: Path) -> None:
    objects = FolderObjects(tmp_path)
    moves = [Move(f"sha256:{number}") for number in range(KEPT + 3)]
    assert write_moves(objects, "staging", moves, None)
    assert read_moves(objects, "staging")[0] == moves[3:]
    (line, *_) = (tmp_path / "channels" / "staging").read_text().splitlines()
    assert json.loads(line)["model"] == "sha256:3"


@settings(max_examples=60)
@given(st.lists(st.sampled_from(["a", "b", "c", None]), max_size=12))
def test_rollbacks_lead_back_through_what_was_promoted(steps: list[str | None]) -> None:
    """A promotion pushes, a rollback (None) pops; none leads back to what was undone."""
    moves: list[Move] = []
    expected: list[str] = []
    for step in steps:
        if step is not None:
            if expected[-1:] != [step]:
                expected.append(step)
                moves.append(Move(step))
        elif len(expected) > 1:
            expected.pop()
            moves.append(Move(expected[-1], back=True))
    assert stack(moves) == expected
