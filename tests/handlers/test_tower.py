"""A private site that asks the cloud, and everything that the cloud is told."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import numpy as np
import pytest

from cli.edge import running
from cli.errors import ServingError
from handlers.bundle import build_bundle
from handlers.edge import EdgeServer
from handlers.ledger import Ledger
from handlers.recommender import Recommender
from handlers.tower import CANDIDATES, CloudIndex, Policy, read_histories
from recsys.exact import ExactIndex
from tests.handlers.bearers import PUBLIC, bearer
from tests.handlers.small_models import ITEMS

DIGEST, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
HISTORIES = {
    "user-anna": ("item-1", "item-7", "item-3"),
    "user-ben": tuple(ITEMS[:30]),
    "user-new": (),
}
FIELDS = [{}, {"k": 3}, {"exclude_seen": False, "explain": True}, {"diversity": 0.4}]


class Cloud:
    """A service that keeps every byte it is sent, headers included."""

    def __init__(self, answer: Callable[[bytes], tuple[int, bytes, str]]) -> None:
        self.answer, self.heard = answer, []
        cloud = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                cloud.heard.append((f"{self.requestline}\n{self.headers}".encode(), body))
                status, text, _ = cloud.answer(body)
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *words: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=[0.02], daemon=True).start()


@pytest.fixture(scope="module")
def alone(artifact: Path) -> EdgeServer:
    """One place that has model and histories."""
    return EdgeServer(artifact, DIGEST, 1000, histories=HISTORIES)


@pytest.fixture
def cloud(artifact: Path) -> Iterator[Cloud]:
    cloud = Cloud(EdgeServer(artifact, DIGEST, 100_000).answer)
    yield cloud
    cloud.server.shutdown()
    cloud.server.server_close()


def site(artifact: Path, cloud: str, digest: str = DIGEST, **policy: object) -> EdgeServer:
    share = Policy(**{"shares": "vector", "cloud": cloud} | policy)
    return EdgeServer(artifact, digest, 1000, share, HISTORIES)


def ask(server: EdgeServer, **asked: object) -> tuple[int, dict]:
    status, body, _ = server.answer(json.dumps(asked).encode())
    return status, json.loads(body)


def same(one: tuple[int, dict], other: tuple[int, dict]) -> bool:
    def rounded(text: str) -> str:
        return re.sub(r"-?\d+\.\d+(e-?\d+)?", lambda n: f"{float(n[0]):.4f}", text)

    return rounded(json.dumps(one)) == rounded(json.dumps(other))


def test_the_answers_are_those_of_one_place(
    artifact: Path, alone: EdgeServer, cloud: Cloud
) -> None:
    for policy in ({}, {"clip": 0.5}):
        server = site(artifact, cloud.address, **policy)
        for user in HISTORIES:
            for fields in FIELDS:
                wanted = ask(alone, user=user, **fields)
                assert wanted[0] == 200 and same(ask(server, user=user, **fields), wanted)
    assert len(cloud.heard) == 2 * 2 * len(FIELDS)  # for a user of whom nothing is known, nobody


def test_the_candidates_are_those_of_the_cloud_but_for_what_was_seen(
    artifact: Path, alone: EdgeServer, cloud: Cloud
) -> None:
    few = ITEMS[5:25]
    body = json.dumps({"items": [{"item": item} for item in few]}).encode()
    cloud.answer = lambda asked: (200, body, "")
    _, answer = ask(site(artifact, cloud.address), user="user-anna", k=10)
    _, whole = ask(alone, user="user-anna", k=40)
    wanted = [row for row in whole["items"] if row["item"] in few][:10]
    assert same((0, answer["items"]), (0, wanted))


def test_what_leaves_the_site_names_no_user_and_no_item(artifact: Path, cloud: Cloud) -> None:
    server = site(artifact, cloud.address)
    for user in HISTORIES:
        for fields in (*FIELDS, {"where": {"in_stock": True}}, {"history": ["item-9"]}):
            assert ask(server, user=user, **fields)[0] == 200
    server.answer(b'{"user": "user-anna", "events": [{"item": "item-5"}]}')
    assert cloud.heard
    for headers, body in cloud.heard:
        assert b"user-" not in headers + body and b"item-" not in headers + body
        names = set(re.findall(rb"^([\w-]+):", headers, re.MULTILINE))
        assert names == {b"Host", b"Accept-Encoding", b"Content-Length", b"Content-Type"}
        told = json.loads(body)
        assert told.keys() == {"vector", "model", "k"}
        # Neither how many are wanted nor how many were seen.
        assert told["k"] == min(CANDIDATES, len(ITEMS)) and len(told["vector"]) == 16


def test_where_nothing_is_shared_no_connection_is_opened(
    artifact: Path, alone: EdgeServer, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = site(artifact, cloud.address, shares="nothing")
    wanted = [ask(alone, user=user) for user in HISTORIES]

    def refuse(*arguments: object) -> None:
        raise AssertionError("a socket was made")

    monkeypatch.setattr(socket.socket, "__init__", refuse)
    assert [ask(server, user=user) for user in HISTORIES] == wanted
    monkeypatch.undo()
    assert cloud.heard == []


def test_noise_changes_what_is_told_but_not_from_one_time_to_the_next(
    artifact: Path, alone: EdgeServer, cloud: Cloud
) -> None:
    server = site(artifact, cloud.address, clip=2.0, noise=0.5)
    for _ in range(2):
        status, answer = ask(server, user="user-anna", k=5)
    first, second = (json.loads(body)["vector"] for _, body in cloud.heard)
    assert first == second
    again = site(artifact, cloud.address, clip=2.0, noise=0.5)
    ask(again, user="user-anna", k=5)
    assert json.loads(cloud.heard[-1][1])["vector"] != first
    # All 40 items are candidates, and are ranked by the vector without noise.
    assert status == 200 and same((200, answer), ask(alone, user="user-anna", k=5))


def test_the_noise_of_one_user_tells_nothing_of_anothers(artifact: Path, cloud: Cloud) -> None:
    twins = {"user-anna": ("item-1", "item-7"), "user-ben": ("item-1", "item-7")}
    policy = Policy("vector", cloud.address, clip=2.0, noise=0.5)
    server = EdgeServer(artifact, DIGEST, 1000, policy, twins)
    for user in twins:
        ask(server, user=user)
    first, second = (json.loads(body)["vector"] for _, body in cloud.heard)
    assert not set(first) & set(second)


def test_no_more_vectors_of_a_user_go_than_the_policy_lets(
    artifact: Path, alone: EdgeServer, cloud: Cloud, tmp_path: Path, caplog
) -> None:
    policy = Policy("vector", cloud.address, most_vectors=2)
    ledger = Ledger(tmp_path / "ledger", 2, policy.noise)
    server = EdgeServer(artifact, DIGEST, 1000, policy, HISTORIES, ledger=ledger)
    for history in (["item-9"], ["item-8"], ["item-9"], ["item-2"], ["item-4"]):
        asked = {"user": "user-anna", "history": history}
        assert same(ask(server, **asked), ask(alone, **asked))
    assert len(cloud.heard) == 3  # the third is the first again
    assert "2 vectors of this user went, and no more may" in caplog.text
    assert "user-anna" not in caplog.text
    ask(server, history=["item-1"])  # of nobody, so that nobody could count it
    assert len(cloud.heard) == 3
    ask(server, user="user-ben")
    assert len(cloud.heard) == 4


def test_the_noise_is_normal_and_lengths_are_cut() -> None:
    index = ExactIndex(np.zeros((1, 20_001), dtype=np.float32))
    policy = Policy("vector", "http://x", clip=3.0, noise=0.5)
    state = np.zeros(20_001, dtype=np.float32)
    noise = CloudIndex(index, {"a": 0}, DIGEST, policy).told(state) / 1.5
    assert abs(noise.mean()) < 0.03 and abs(noise.std() - 1) < 0.03
    assert abs(np.mean(noise**4) - 3) < 0.3 and abs(np.mean(np.abs(noise) < 1) - 0.6827) < 0.02
    clipped = CloudIndex(index, {"a": 0}, DIGEST, Policy("vector", "http://x", clip=3.0))
    assert np.linalg.norm(clipped.told(state + 1)) == pytest.approx(3.0)
    assert np.linalg.norm(clipped.told(state + 1e-3)) == pytest.approx(1e-3 * 20_001**0.5)


@pytest.mark.parametrize(
    "answer",
    [
        (500, b"{}", ""),
        (200, b"nonsense", ""),
        (200, b'{"items": [{"item": 7}]}', ""),
        (200, b'{"items": [{"item": "unknown"}, {"item": "item-2"}]}', ""),
        (200, b"[]", ""),
    ],
)
def test_a_cloud_that_fails_or_lies_changes_no_answer(
    artifact: Path, alone: EdgeServer, cloud: Cloud, answer: tuple[int, bytes, str]
) -> None:
    cloud.answer = lambda body: answer
    server = site(artifact, cloud.address)
    assert same(ask(server, user="user-anna"), ask(alone, user="user-anna"))
    assert len(cloud.heard) == 1


def test_without_the_cloud_or_with_another_model_there_the_site_answers(
    artifact: Path, alone: EdgeServer, cloud: Cloud, caplog: pytest.LogCaptureFixture
) -> None:
    status, wanted = ask(alone, user="user-anna")
    answer = ask(site(artifact, cloud.address, OTHER), user="user-anna")
    assert same(answer, (status, wanted | {"model": OTHER}))
    assert f"409 {{\"error\": \"The vector is of model {OTHER}" in caplog.text
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    answer = ask(site(artifact, f"http://127.0.0.1:{port}"), user="user-anna")
    assert same(answer, (status, wanted))


def test_a_vector_comes_alone_and_fits(alone: EdgeServer) -> None:
    vector = [0.5] * 16
    status, answer = ask(alone, vector=vector, model=DIGEST, k=3)
    assert status == 200 and len(answer["items"]) == 3
    status, answer = ask(alone, vector=vector, model=OTHER)
    assert status == 409 and answer["error"].startswith(f"The vector is of model {OTHER}")
    for bad, told in (
        ({"history": ["item-1"]}, "Unknown field 'history': the fields are vector, model, k, wh"),
        ({"user": "user-anna"}, "Unknown field 'user'"),
        ({"vector": vector[1:]}, "vector must have 16 numbers, not 15."),
        ({"vector": [1e9] * 16}, "vector[0] must be a number from -1000000 to 1000000"),
        ({"vector": ["1"] * 16}, "vector[0] must be a number from -1000000 to 1000000, not text"),
        ({"model": "latest"}, "model must be a model's digest in quotes, not text."),
    ):
        status, answer = ask(alone, **{"vector": vector, "model": DIGEST} | bad)
        assert status == 400 and told in answer["error"]
    status, body, _ = alone.answer(b'{"vector": [NaN], "model": "%s"}' % DIGEST.encode())
    assert status == 400


def test_a_users_history_at_the_site_goes_before_what_is_told(alone: EdgeServer) -> None:
    told = ask(alone, history=["item-1", "item-7", "item-3", "item-9"])[1]["items"]
    for more in (["item-9"], ["item-7", "item-3", "item-9"]):
        assert ask(alone, user="user-anna", history=more)[1]["items"] == told
    assert ask(alone, user="nobody", history=["item-9"])[1]["items"] != told


def test_histories_are_read_and_a_wrong_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "histories.jsonl"
    file.write_text("".join(json.dumps(pair) + "\n" for pair in HISTORIES.items()))
    assert read_histories(file) == HISTORIES
    file.write_text('["u", ["a"]]\n["v", [1]]\n')
    with pytest.raises(ValueError, match="line 2 of .* is no"):
        read_histories(file)


def test_a_bundle_carries_its_policy_and_may_be_told_to_share_nothing(
    artifact: Path, alone: EdgeServer, cloud: Cloud, tmp_path: Path
) -> None:
    policy = Policy("vector", cloud.address, most_vectors=2)
    bundle = build_bundle(artifact, DIGEST, tmp_path / "site.pyz", policy=policy, keys=[PUBLIC])
    file = tmp_path / "histories.jsonl"
    file.write_text("".join(json.dumps(pair) + "\n" for pair in HISTORIES.items()))
    ledger = ["--ledger", str(tmp_path / "ledger")]
    with pytest.raises(ServingError, match="2 vectors of each user go: name the file .* --ledger"):
        with running(bundle):
            pass
    for options, asked in ((ledger, 1), (["--share-nothing"], 0)):
        cloud.heard.clear()
        with running(bundle, "--histories", str(file), *options) as address:
            url = f"{address}/predictions/recommend"
            headers = {"Authorization": bearer(sub="user-anna")}
            answer = httpx.post(url, json={"user": "user-anna"}, headers=headers)
        assert same((answer.status_code, answer.json()), ask(alone, user="user-anna"))
        assert len(cloud.heard) == asked


def test_a_bundle_with_histories_answers_who_may_ask_for_their_user(
    artifact: Path, tmp_path: Path
) -> None:
    file = tmp_path / "histories.jsonl"
    file.write_text("".join(json.dumps(pair) + "\n" for pair in HISTORIES.items()))
    asked = {"user": "user-anna", "explain": True}
    mine = {"Authorization": bearer(sub="user-anna")}
    for keys, status in (([PUBLIC], 200), ((), 401)):
        bundle = build_bundle(artifact, DIGEST, tmp_path / "site.pyz", keys=keys)
        with running(bundle, "--histories", str(file)) as address:
            url = f"{address}/predictions/recommend"
            nobody = httpx.post(url, json=asked)
            assert (nobody.status_code, nobody.headers["WWW-Authenticate"]) == (401, "Bearer")
            assert "item-" not in nobody.text
            assert httpx.post(url, json=asked, headers=mine).status_code == status
            assert httpx.post(url, json={"history": ["item-1"]}).status_code == 200
            ben = {"Authorization": bearer(sub="user-ben")}
            if keys:
                assert httpx.post(url, json=asked, headers=ben).status_code == 403
    bundle = build_bundle(artifact, DIGEST, tmp_path / "open.pyz", keys=None)
    with running(bundle, "--histories", str(file)) as address:
        answer = httpx.post(f"{address}/predictions/recommend", json=asked)
    causes = {cause["item"] for row in answer.json()["items"] for cause in row["because"]}
    assert causes and causes <= set(HISTORIES["user-anna"])


def test_the_last_item_can_be_told_from_a_vector_without_noise(artifact: Path) -> None:
    """What docs/privacy.md warns of: who has the model reads a history's end off its vector."""
    model = Recommender.open(artifact)
    random = np.random.default_rng(0)
    histories = [random.integers(0, 40, random.integers(1, 8)) for _ in range(200)]
    states = model.runtime.encode(histories)
    # An attacker encodes each item by itself and takes the nearest.
    alone = model.runtime.encode([[item] for item in range(40)])
    alone /= np.linalg.norm(alone, axis=1, keepdims=True)

    def told(vectors: np.ndarray) -> float:
        guesses = (vectors @ alone.T).argmax(axis=1)
        return np.mean(guesses == [history[-1] for history in histories])

    share = Policy("vector", "http://x", clip=4.0, noise=2.0)
    index = CloudIndex(model.runtime.index, model.places, DIGEST, share)
    noisy = np.array([index.told(state) for state in states])
    assert told(states) > 0.5
    assert told(noisy) < 0.15
