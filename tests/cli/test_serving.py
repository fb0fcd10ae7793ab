"""Real TorchServe: one process for all tests of this file, each starts from what it finds."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest
import torch
from tenacity import retry, retry_if_result, stop_after_delay, wait_fixed

from cli.deployment import deploy, kind_of_model, restore, retire, roll_back
from cli.errors import ServingError
from cli.serving_client import ServingClient
from cli.torchserve import archives_of, find_java, torchserve_command
from model_store.channels import stack
from model_store.errors import StoreError
from model_store.factory import open_store
from model_store.manifest import sha256_of
from model_store.signing import Keyring
from model_store.store import Store
from recsys.artifact import save_model
from recsys.model import SequentialRecommender
from recsys.rating import RatingModel, RatingRecipe, save_rating
from recsys.recipe import Recipe

ITEMS = [f"item-{number}" for number in range(30)]
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="there is no Java")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class TorchServe:
    """A TorchServe under test, as a supervisor would run it."""

    folder: Path
    inference_port: int = field(default_factory=free_port)
    management_port: int = field(default_factory=free_port)

    def start(self) -> None:
        command, environment = torchserve_command(
            self.folder,
            inference_port=self.inference_port,
            management_port=self.management_port,
        )
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                env=os.environ | environment,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.client = ServingClient(
            f"http://127.0.0.1:{self.management_port}", f"http://127.0.0.1:{self.inference_port}"
        )
        until(self.client.ready)

    def signal_group(self, number: int) -> list[psutil.Process]:
        """Signal JVM and workers; return what they were."""
        jvm = psutil.Process(self.process.pid)
        processes = [jvm, *jvm.children(recursive=True)]
        os.killpg(self.process.pid, number)
        self.process.wait(30)
        return processes


def until(condition: Callable[[], bool]) -> None:
    again = retry_if_result(lambda met: not met)
    retry(retry=again, stop=stop_after_delay(60), wait=wait_fixed(0.1))(condition)()


def write_model(folder: Path, seed: int, weight: float | None = None, items: int = 30) -> Path:
    torch.manual_seed(seed)
    recipe = Recipe(dimension=8, heads=1, blocks=1, length=8)
    model = SequentialRecommender(30, recipe)
    if weight is not None:
        with torch.no_grad():
            model.item_embedding.weight.fill_(weight)
    return save_model(folder, model, recipe, ITEMS[:items], {})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchServe]:
    server = TorchServe(tmp_path_factory.mktemp("torch serve"))
    server.start()
    yield server
    server.signal_group(signal.SIGTERM)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    keys = Keyring(tmp_path_factory.mktemp("keys"))
    return open_store(str(tmp_path_factory.mktemp("store")), keys=keys)


@pytest.fixture(scope="module")
def first(server: TorchServe, store: Store, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Digest of the model that serves from the start."""
    digest = store.put(write_model(tmp_path_factory.mktemp("first"), seed=1), lineage={})
    done = deploy(store, digest, client=server.client, folder=server.folder)
    assert (done.digest, done.previous, done.changed) == (digest, None, True)
    assert store.channels() == {"production": digest}
    return digest


def served(server: TorchServe) -> list[tuple[str, bool, bool]]:
    return [(served.digest, served.default, served.ready) for served in server.client.versions()]


@needs_java
def test_it_serves_only_on_loopback_and_loads_only_its_own_archives(server: TorchServe) -> None:
    jvm = psutil.Process(server.process.pid)

    def listening() -> list[str]:
        return [
            connection.laddr.ip.removeprefix("::ffff:")
            for connection in jvm.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        ]

    until(lambda: len(listening()) >= 4)  # two of HTTP and, a little later, two of gRPC
    assert set(listening()) == {"127.0.0.1"}
    for url in ("http://127.0.0.1:9/x.mar", "file:///tmp/x.mar", "../x.mar"):
        with pytest.raises(ServingError, match="allowed URL|Relative path"):
            server.client.register(url)


@needs_java
def test_before_the_first_model_it_says_what_to_do(server: TorchServe) -> None:
    if server.client.versions():
        pytest.skip("another test has deployed already")
    with pytest.raises(ServingError, match="No model is served yet: run `hybrid deploy`"):
        server.client.recommend(["item-1"])


@needs_java
def test_it_recommends(server: TorchServe, first: str) -> None:
    answer = server.client.recommend(["item-1", "item-2"], 5)
    got = [row["item"] for row in answer["items"]]
    assert answer["model"] == first
    assert len(set(got)) == 5
    assert {"item-1", "item-2"}.isdisjoint(got)
    both = server.client.recommend(["item-1", "item-2"], 30, exclude_seen=False)
    assert {row["item"] for row in both["items"]} == set(ITEMS)


@needs_java
def test_bad_requests_get_a_sentence_and_the_worker_stays(server: TorchServe, first: str) -> None:
    with pytest.raises(ServingError, match="k must be a whole number from 1 to 1000, not 0"):
        server.client.recommend([], 0)
    url = f"{server.client.inference_url}/predictions/recommend"
    for content in (b"{", b"\xff\xfe", b"", b"[" * 50_000):
        for kind in ("application/json", "text/plain", "application/octet-stream"):
            answer = httpx.post(url, content=content, headers={"Content-Type": kind})
            assert answer.status_code == 400
            assert "The body is" in answer.json()["error"]
    assert httpx.post(url, content=b"x" * 1_100_000).status_code == 413
    assert server.client.recommend(["item-1"])["model"] == first


@needs_java
@pytest.mark.parametrize("path", ["../../../evil", "artifact/../../evil"])
def test_an_archive_that_leads_out_of_its_folder_is_refused(
    server: TorchServe, first: str, path: str
) -> None:
    archives = archives_of(server.folder)
    wrong = archives / "wrong.mar"
    with zipfile.ZipFile(wrong, "w") as target:
        with zipfile.ZipFile(archives / f"recommend-{first[7:]}.mar") as source:
            for name in source.namelist():
                target.writestr(name, source.read(name).replace(first[7:].encode(), b"0" * 64))
        target.writestr(path, "evil")
    with pytest.raises(ServingError, match="refuses to load wrong.mar"):
        server.client.register(wrong.name)
    wrong.unlink()
    assert served(server) == [(first, True, True)]
    unpacked = Path(tempfile.gettempdir()) / f"hybrid-{os.getuid()}"
    assert not list(unpacked.rglob("evil")) and not list(server.folder.rglob("evil"))


@needs_java
def test_what_serves_already_is_left_alone(server: TorchServe, store: Store, first: str) -> None:
    before = psutil.Process(server.process.pid).children()
    done = deploy(store, "production", client=server.client, folder=server.folder)
    assert (done.digest, done.changed) == (first, False)
    assert psutil.Process(server.process.pid).children() == before
    assert restore(store, client=server.client, folder=server.folder) == first


def write_rating(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    return save_rating(folder, RatingModel(["u"], ["i"], RatingRecipe()), {})


@needs_java
def test_a_model_of_another_kind_serves_beside_the_one_that_recommends(
    server: TorchServe, store: Store, first: str, tmp_path: Path
) -> None:
    old, new = (
        store.put(write_rating(tmp_path / str(seed), seed), lineage={}) for seed in (1, 2)
    )
    assert kind_of_model(store, old) == "rating" and kind_of_model(store, first) == "recommend"
    with pytest.raises(ServingError, match="is a rating model, and the channel production is for"):
        deploy(store, old, client=server.client, folder=server.folder)
    rates = ServingClient(server.client.management_url, server.client.inference_url, "rating")
    body = {"user": "u", "items": ["i"]}
    for digest in (old, new):
        assert deploy(store, digest, client=rates, folder=server.folder).changed
        assert rates.predict(body)["model"] == digest
    assert roll_back(store, client=rates, folder=server.folder).digest == old
    assert rates.predict(body)["model"] == old
    assert store.channels() == {"production": first, "production-rating": old}
    # What was lost comes back, and neither kind takes anything from the other.
    rates.unregister(new)
    rates.unregister(old)
    assert restore(store, client=rates, folder=server.folder) == old
    assert rates.predict(body)["model"] == old
    assert restore(store, client=server.client, folder=server.folder) == first
    assert served(server) == [(first, True, True)]
    retire(rates, server.folder, keep=set())
    assert rates.versions() == [] and served(server) == [(first, True, True)]


@needs_java
def test_a_deployment_that_died_before_the_channel_moved_is_finished(
    server: TorchServe, store: Store, first: str, tmp_path: Path
) -> None:
    other = store.put(write_model(tmp_path, seed=9), lineage={})
    store.move_channel("production", other)
    done = deploy(store, first, client=server.client, folder=server.folder)
    assert done.changed
    assert store.channels()["production"] == first


@needs_java
@pytest.mark.parametrize(
    ("flaw", "sentence"),
    [
        ({"weight": float("nan")}, "fails its test before service: .*HTTP 500"),
        ({"items": 29}, "cannot be loaded: .*`hybrid logs torchserve` tells why"),
    ],
)
def test_a_model_that_fails_leaves_the_old_one_serving(
    server: TorchServe, store: Store, first: str, tmp_path: Path, flaw: dict, sentence: str
) -> None:
    bad = store.put(write_model(tmp_path, seed=2, **flaw), lineage={})
    with pytest.raises(ServingError, match=sentence) as error:
        deploy(store, bad, client=server.client, folder=server.folder)
    assert bad in str(error.value)
    assert "\n" not in str(error.value)
    assert served(server) == [(first, True, True)]
    assert store.channels()["production"] == first
    assert server.client.recommend(["item-1"])["model"] == first


@needs_java
def test_a_model_that_nobody_signed_is_refused(
    server: TorchServe, store: Store, first: str, tmp_path: Path
) -> None:
    digest = Store(store.objects).put(write_model(tmp_path / "model", seed=8), lineage={})
    with pytest.raises(StoreError, match="nobody signed it"):
        deploy(store, digest, client=server.client, folder=server.folder)
    assert served(server) == [(first, True, True)]
    assert store.channels()["production"] == first


@needs_java
def test_a_corrupt_artefact_is_refused(
    server: TorchServe, store: Store, first: str, tmp_path: Path
) -> None:
    digest = store.put(write_model(tmp_path / "model", seed=3), lineage={})
    (file,) = (f for f in store.manifest(digest).files if f.name == "weights.safetensors")
    wrong = tmp_path / "wrong"
    wrong.write_bytes((tmp_path / "model" / "weights.safetensors").read_bytes()[:-1] + b"!")
    key = f"blobs/{file.sha256}"
    token = store.objects.entry(key).token
    store.objects.put(wrong, key, sha256_of(wrong), token)
    with pytest.raises(StoreError, match=f"weights.safetensors should have SHA-256 {file.sha256}"):
        deploy(store, digest, client=server.client, folder=server.folder)
    assert served(server) == [(first, True, True)]


@needs_java
def test_who_loses_the_channel_withdraws(
    server: TorchServe, store: Store, first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, rival = (
        store.put(write_model(tmp_path / str(seed), seed=seed), lineage={}) for seed in (4, 5)
    )
    set_default = server.client.set_default

    def be_overtaken(digest: str) -> None:
        set_default(digest)
        monkeypatch.undo()
        store.move_channel("production", rival)

    monkeypatch.setattr(server.client, "set_default", be_overtaken)
    with pytest.raises(StoreError, match="somebody moved it"):
        deploy(store, mine, client=server.client, folder=server.folder)
    assert served(server) == [(first, True, True)]
    assert store.channels()["production"] == rival
    store.move_channel("production", first)


@needs_java
def test_a_new_version_takes_over_without_a_failed_request(
    server: TorchServe, store: Store, first: str, tmp_path: Path
) -> None:
    second = store.put(write_model(tmp_path, seed=6), lineage={})
    url = f"{server.client.inference_url}/predictions/recommend"
    done = threading.Event()
    answers: list[tuple[int | str, str | None]] = []

    def ask() -> None:
        # The machine may be busy: a slow answer is fine, a lost one is not.
        with httpx.Client(timeout=60) as client:
            while not done.is_set():
                try:
                    answer = client.post(url, json={"history": ["item-1"]})
                    answers.append((answer.status_code, answer.json().get("model")))
                except httpx.HTTPError as error:
                    answers.append((repr(error), None))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        outcome = deploy(store, second[7:19], client=server.client, folder=server.folder)
    finally:
        done.set()
        asking.join()
    assert (outcome.digest, outcome.previous) == (second, first)
    assert {status for status, _ in answers} == {200}
    assert {model for _, model in answers} <= {first, second}
    # The one before stays loaded for a rollback, and only that one.
    assert set(served(server)) == {(second, True, True), (first, False, True)}
    assert store.channels()["production"] == second
    assert {path.name for path in archives_of(server.folder).iterdir()} == {
        f"recommend-{digest[7:]}.mar" for digest in (first, second)
    }


@needs_java
def test_after_a_crash_the_model_in_production_is_restored(
    server: TorchServe, store: Store, first: str
) -> None:
    jvm = psutil.Process(server.process.pid)
    workers = jvm.children(recursive=True)
    jvm.kill()
    server.process.wait(30)
    assert not psutil.wait_procs(workers, timeout=30)[1]
    with pytest.raises(ServingError, match="does not answer .*: run `hybrid up`"):
        server.client.versions()
    server.start()
    assert server.client.versions() == []
    production = store.resolve("production")
    before = stack(store.history("production"))[-2]
    assert restore(store, client=server.client, folder=server.folder) == production
    assert set(served(server)) == {(production, True, True), (before, False, True)}
    assert server.client.recommend(["item-1"])["model"] == production


@needs_java
def test_sigterm_ends_all_processes(server: TorchServe, first: str) -> None:
    processes = server.signal_group(signal.SIGTERM)
    assert not psutil.wait_procs(processes, timeout=30)[1]
    server.start()


class Idle(ServingClient):
    """Of a TorchServe that serves nothing."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1", "http://127.0.0.1:1")

    def serving(self) -> None:
        return None


def test_an_empty_store_has_nothing_to_restore(tmp_path: Path) -> None:
    assert restore(open_store(str(tmp_path)), client=Idle(), folder=tmp_path) is None


def test_a_model_in_production_that_is_refused_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    digest = store.put(write_rating(tmp_path / "model", 1), lineage={})
    store.move_channel("production", digest)
    folder = tmp_path / "torchserve"
    (folder / "incoming-of-a-killed-one" / "artifact").mkdir(parents=True)
    with pytest.raises(StoreError, match=f"{digest} is refused: there are no keys"):
        restore(store, client=Idle(), folder=folder)
    assert not list(folder.rglob("*"))


def test_without_java_one_sentence_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServingError, match="needs Java 17 and there is none: run `make setup`"):
        torchserve_command(tmp_path, inference_port=1, management_port=2)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "gone"))
    with pytest.raises(ServingError, match=f"JAVA_HOME is {tmp_path / 'gone'}, but"):
        find_java()


def test_a_server_that_is_not_there_is_a_sentence() -> None:
    port = free_port()
    client = ServingClient(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port}")
    assert not client.ready()
    with pytest.raises(ServingError, match=f"127.0.0.1:{port}.*does not answer.*run `hybrid up`"):
        client.recommend(["a"])


def test_importing_it_loads_nothing_heavy() -> None:
    heavy = {"torch", "httpx", "tenacity", "model_archiver", "boto3", "ts"}
    code = f"import sys, cli.deployment; print({heavy!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
