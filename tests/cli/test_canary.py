"""A canary on real servers, TorchServe and nginx under supervisord; tests go on from each other."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import polars as pl
import psutil
import pytest
import torch
import yaml
from filelock import FileLock
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from cli import canary, posting, production, sessions, trials
from cli.application import PROJECT
from cli.environment import Environment
from cli.errors import CommandError, ServingError
from cli.experiment import compare, watch
from cli.learning import environment_store
from cli.local import LocalServers
from cli.nginx import nginx_program
from cli.processes import Supervisor
from cli.torchserve import archives_of
from cli.trials import Rules
from model_store.errors import StoreError
from model_store.objects import OWN
from recsys.artifact import save_model
from recsys.model import SequentialRecommender
from recsys.recipe import Recipe
from recsys.search.ranker import save_search, train_search
from recsys.search.towers import TowerRecipe
from tests.federation.servers import free_port

pytestmark = [
    pytest.mark.skipif(shutil.which("java") is None, reason="there is no Java"),
    pytest.mark.skipif(nginx_program() is None, reason="nginx is not installed"),
]

ITEMS = [f"item-{number}" for number in range(30)]
USERS = [f"user-{number}" for number in range(40)]


# nginx notes each request once it has answered it, and the shadow's once that has answered too.
once_noted = retry(
    retry=retry_if_exception_type(AssertionError),
    stop=stop_after_delay(20),
    wait=wait_fixed(0.1),
    reraise=True,
)


def quietly(done: int, total: int, text: str) -> None:
    pass


@dataclass
class Service:
    """A local environment of which only TorchServe, its proxy and its session store run."""

    environment: Environment
    models: list[str]

    def up(self) -> list[str]:
        """What `hybrid up` does for these servers; the models that it gave TorchServe again."""
        parts = [
            part
            for part in LocalServers(self.environment).services
            if part.name in ("torchserve", "serving", "sessions")
        ]
        supervisor = Supervisor(self.environment.folder)
        supervisor.configure(parts)
        supervisor.start(parts)
        supervisor.wait(parts)
        return canary.mend(self.environment, quietly)

    def write_model(self, seed: int) -> Path:
        torch.manual_seed(seed)
        recipe = Recipe(dimension=8, heads=1, blocks=1, length=8)
        model = SequentialRecommender(len(ITEMS), recipe)
        folder = self.environment.folder.parent / f"model-{seed}"
        return save_model(folder, model, recipe, ITEMS, {})

    def write_search(self, seed: int) -> Path:
        catalogue = pl.DataFrame({"item": ITEMS, "text": [f"kettle {item}" for item in ITEMS]})
        recipe = TowerRecipe(dimension=8, buckets=64, epochs=1, seed=seed)
        folder = self.environment.folder.parent / f"search-{seed}"
        return save_search(folder, train_search(catalogue, recipe))

    def process(self, name: str) -> psutil.Process:
        states = Supervisor(self.environment.folder).states()
        return psutil.Process(next(state.pid for state in states if state.name == name))

    def begin(self, model: str, share: float | None = 30.0, rules: Rules = Rules()) -> trials.Trial:
        return canary.start(self.environment, model, share, rules, quietly)

    def answered_by(self, kind: str = "recommend") -> dict[str, str]:
        """The model of a kind that answers each user."""
        client = production.public_client(self.environment, kind)
        asked = {"query": "kettle"} if kind == "search" else {"history": ["item-1"], "k": 3}
        return {user: client.predict(asked, user=user)["model"] for user in USERS}

    @property
    def url(self) -> str:
        return f"{production.public_client(self.environment).inference_url}/predictions/recommend"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder; where this process may mount, on a disk of its own of 64 MB."""
    home = tmp_path_factory.mktemp("home")
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", home]
    mounted = os.getuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    yield home
    if mounted:
        subprocess.run(["umount", "--lazy", home], check=True)


@pytest.fixture(scope="module")
def service(home: Path) -> Iterator[Service]:
    """With the first of two models in production."""
    settings = yaml.safe_load((PROJECT / "stacks" / "environments" / "local.yaml").read_text())
    for name in settings["ports"]["torchserve"]:
        settings["ports"]["torchserve"][name] = free_port()
    settings["limits"] = {"requests_per_second": 100_000, "burst": 10_000}
    (home / "environments").mkdir()
    (home / "environments" / "local.yaml").write_text(yaml.safe_dump(settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYBRID_HOME", str(home))
        environment = Environment.load("local", home)
        store = environment_store(environment)
        models: list[str] = []
        service = Service(environment, models)
        for seed in (1, 2):
            models.append(store.put(service.write_model(seed), lineage={}))
        try:
            service.up()
            production.deploy(environment, models[0], quietly)
            yield service
        finally:
            Supervisor(environment.folder).stop()


@pytest.fixture
def old(service: Service) -> str:
    return service.models[0]


@pytest.fixture
def new(service: Service) -> str:
    return service.models[1]


def test_a_canary_gets_its_share_of_users_and_a_larger_share_adds_some(service, old, new) -> None:
    assert set(service.answered_by().values()) == {old}
    trial = service.begin(new, 30.0)
    assert environment_store(service.environment).channels() == {"production": old, "canary": new}
    first = service.answered_by()
    assert set(first.values()) == {old, new}
    assert service.answered_by() == first
    assert service.begin(new, 30.0) == trial
    assert service.begin(new, 60.0) != trial
    more = service.answered_by()
    assert {user for user in USERS if first[user] == new} < {u for u in USERS if more[u] == new}
    third = environment_store(service.environment).put(service.write_model(3), lineage={})
    with pytest.raises(CommandError, match="on trial for production with 60 % of users"):
        service.begin(third)


def test_after_kills_of_both_servers_up_serves_the_same_share_again(service, old, new) -> None:
    before = service.answered_by()
    assert canary.state(service.environment)["problem"] is None
    service.process("torchserve").kill()
    problem = "TorchServe does not answer|TorchServe has not loaded it"
    # supervisord starts both again by itself, but nobody has given TorchServe its models.
    assert canary.state(service.environment)["problem"] in problem.split("|")
    proxy = service.process("serving")
    (worker,) = proxy.children()
    proxy.kill()
    proxy.wait(timeout=10)  # until it has ended the worker is still its child
    assert canary.state(service.environment)["problem"] == "the proxy does not answer"
    # Its worker still sends users to the version that this would unload.
    with pytest.raises(ServingError, match="The main process of the proxy was killed"):
        canary.abort(service.environment, quietly)
    assert set(service.up()) == {old, new}
    # It went on without its main process, and would have kept the port from the next one.
    assert not worker.is_running()
    assert canary.state(service.environment)["problem"] is None
    assert service.answered_by() == before


@pytest.mark.skipif(
    sessions.session_store_program() is None,
    reason="there is neither redis-server nor valkey-server",
)
def test_a_canary_serves_on_without_its_session_store_and_up_brings_that_back(service) -> None:
    event = {"user": "user-1", "events": [{"item": "item-2"}]}
    before = service.answered_by()
    assert sessions.problem(service.environment) is None
    Supervisor(service.environment.folder)._call("stopProcess", "sessions")
    assert sessions.problem(service.environment) == "the session store does not answer: hybrid up"
    token = posting.token(service.environment, "user-1", 5)
    headers = {"Authorization": f"Bearer {token}"}
    refused = httpx.post(service.url, json=event, headers=headers)
    assert refused.status_code == 503
    assert refused.json() == {"error": "The session store does not answer."}
    answer = httpx.post(service.url, json={"user": "user-1"}, headers=headers).json()
    assert len(answer["items"]) == 10 and "does not answer" in answer["warning"]
    assert service.answered_by() == before
    service.up()
    service.process("sessions").kill()
    service.up()
    assert sessions.problem(service.environment) is None
    assert httpx.post(service.url, json=event, headers=headers).json()["stored"] == 1
    answer = httpx.post(service.url, json={"user": "user-1"}, headers=headers).json()
    assert answer["fresh_events"] == 1
    assert service.answered_by() == before


@pytest.mark.skipif(
    sessions.session_store_program() is None,
    reason="there is neither redis-server nor valkey-server",
)
def test_who_posts_or_asks_for_a_user_needs_a_token_for_that_user(service) -> None:
    event = {"user": "user-2", "events": [{"item": "item-3"}]}
    asking = {"user": "user-2"}

    def sent(body: dict, user: str | None) -> httpx.Response:
        token = posting.token(service.environment, user, 5)
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.post(service.url, json=body, headers=headers)

    for body in (event, asking):
        nobody = httpx.post(service.url, json=body)
        assert (nobody.status_code, nobody.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert "Authorization: Bearer TOKEN" in nobody.json()["error"]
        other = sent(body, "user-1")
        assert other.status_code == 403
        # The model's own words, not the proxy's for a path that it does not serve.
        assert "another user" in other.json()["error"]
    assert sent(asking, "user-2").json()["fresh_events"] == 0
    assert sent(event, "user-2").json()["stored"] == sent(event, None).json()["stored"] == 1
    assert sent(asking, "user-2").json()["fresh_events"] == 2
    client = production.public_client(service.environment)
    token = posting.token(service.environment, "user-2", 1)
    assert client.recommend(["item-1"], 3, user="user-2", token=token)["fresh_events"] == 2


def test_a_proxy_that_was_not_told_of_the_trial_is_told_by_up(service, new) -> None:
    """As after a kill between the record of a trial and the proxy's reload."""
    trial = trials.current(service.environment)
    trials.begin(service.environment, new, trial.baseline, 100.0, trial.rules)
    assert canary.state(service.environment)["problem"] == "the proxy does not divide users by it"
    service.up()
    assert set(service.answered_by().values()) == {new}


def test_promotion_and_rollback_lose_no_request(service, old, new) -> None:
    done = threading.Event()
    seen: Counter[object] = Counter()

    def send(client: httpx.Client, user: dict[str, str]) -> int | str:
        # A reload closes idle connections: who sends on one just then sends again over another.
        for _ in range(2):
            try:
                body = {"history": ["item-1"]}
                return client.post(service.url, json=body, headers=user).status_code
            except httpx.TransportError as error:
                failure = repr(error)
        return failure

    def ask() -> None:
        with httpx.Client(timeout=60, transport=httpx.HTTPTransport(retries=1)) as client:
            number = 0
            while not done.is_set():
                number += 1
                user = {"X-User": USERS[number % len(USERS)]}
                seen[send(client, user)] += 1

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        promoted = canary.promote(service.environment, quietly)
        assert (promoted.digest, promoted.previous) == (new, old)
        assert set(service.answered_by().values()) == {new}
        loaded = psutil.Process(service.process("torchserve").pid).children(recursive=True)
        back = production.roll_back(service.environment)
        assert (back.digest, back.previous) == (old, new)
        assert set(service.answered_by().values()) == {old}
        # Nothing had to be loaded for it.
        assert psutil.Process(service.process("torchserve").pid).children(recursive=True) == loaded
    finally:
        done.set()
        asking.join()
    assert set(seen) == {200}
    assert environment_store(service.environment).channels()["production"] == old
    with pytest.raises(ServingError, match="there is none to go back to"):
        production.roll_back(service.environment)


@pytest.mark.skipif(
    sessions.session_store_program() is None,
    reason="there is neither redis-server nor valkey-server",
)
def test_a_shadow_is_asked_what_users_ask_and_answers_nobody(service, old, new) -> None:
    trial = service.begin(new, None)
    assert set(service.answered_by().values()) == {old}
    token = posting.token(service.environment, "user-3", 5)
    headers = {"Authorization": f"Bearer {token}"}
    event = {"user": "user-3", "events": [{"item": "item-4"}]}
    assert httpx.post(service.url, json=event, headers=headers).json()["stored"] == 1

    @once_noted
    def all_copied() -> None:
        errors = compare(service.environment, trial)[0]
        for version in (errors.production, errors.canary):
            assert (version.requests, version.rate) == (len(USERS) + 1, 0)

    all_copied()
    # The shadow was told of the event too, and the store has it once.
    asked = httpx.post(service.url, json={"user": "user-3"}, headers=headers).json()
    assert (asked["model"], asked["fresh_events"]) == (old, 1)
    canary.abort(service.environment, quietly)
    assert canary.state(service.environment) is None


def test_a_canary_that_is_no_worse_is_promoted_by_itself(service, old, new) -> None:
    trial = service.begin(new, 50.0, Rules(margin=0.2))
    lines = [
        f'{{"id":"{n}","at":{n},"arm":"{arm}","status":200,"seconds":0}}\n'
        for n in range(300)
        for arm in ("production", "canary")
    ]
    with trials.requests_file(service.environment, trial).open("a") as file:
        file.writelines(lines)
    promoted = watch(service.environment, trial, print)
    assert (promoted.digest, promoted.previous) == (new, old)
    assert set(service.answered_by().values()) == {new}
    assert trials.find(service.environment, None).ended == "promoted"
    assert production.roll_back(service.environment).digest == old


def test_a_worse_canary_is_taken_back_by_itself(service, old, new) -> None:
    """Its errors are written into the log, as nginx does."""
    trial = service.begin(new, 50.0, Rules(margin=0.2, slow_after=1e-9))
    lines = [
        f'{{"id":"{n}","at":{n},"arm":"{arm}","status":{status},"seconds":0}}\n'
        for n in range(300)
        for arm, status in (("production", 200), ("canary", 500))
    ]
    with trials.requests_file(service.environment, trial).open("a") as file:
        file.writelines(lines)
    said: list[str] = []
    assert watch(service.environment, trial, said.append) is None
    assert "Worse: taking it back." in said
    assert set(service.answered_by().values()) == {old}
    versions = production.serving_client(service.environment).versions()
    assert [version.digest for version in versions] == [old]
    assert canary.state(service.environment) is None
    assert trials.find(service.environment, None).ended == "aborted"


def test_a_model_with_a_wrong_hash_changes_nothing_for_anybody(service, old, new) -> None:
    store = environment_store(service.environment)
    (items,) = (f for f in store.manifest(new).files if f.name == "items.json")
    (blob,) = (service.environment.folder / "model_store" / "blobs").rglob(items.sha256)
    kept = blob.read_bytes()
    blob.write_bytes(kept[:-1] + b"!")
    with pytest.raises(StoreError, match="should have SHA-256"):
        service.begin(new)
    blob.write_bytes(kept)
    assert trials.current(service.environment) is None
    assert store.channels()["production"] == old
    assert set(service.answered_by().values()) == {old}


def test_of_two_deploys_at_once_the_second_is_refused_and_leaves_nothing(service, old, new) -> None:
    """Real processes: the first has everything but the channel, which a held store keeps from it."""
    hybrid = [sys.executable, "-m", "cli.main", "deploy"]
    store = environment_store(service.environment)
    other = store.put(service.write_model(4), lineage={})
    with FileLock(store.objects.root / OWN / "lock"):
        first = subprocess.Popen([*hybrid, new], stderr=subprocess.PIPE, text=True)
        assert any("switching to the new version" in line for line in first.stderr)
        second = subprocess.run([*hybrid, other], capture_output=True, text=True)
    assert first.wait() == 0, first.stderr.read()
    first.stderr.close()
    assert second.returncode == 1
    sentence = f"Error: Environment local is in use (`hybrid deploy`, process {first.pid} of "
    assert second.stderr.startswith(sentence) and len(second.stderr.splitlines()) == 1
    assert store.channels()["production"] == new
    assert [move.model for move in store.history("production")][-2:] == [old, new]
    versions = production.serving_client(service.environment).versions()
    assert {(version.digest, version.ready) for version in versions} == {(old, True), (new, True)}
    archives = archives_of(production.torchserve_folder(service.environment))
    assert {file.stem for file in archives.iterdir()} == {
        f"recommend-{digest[7:]}" for digest in (old, new)
    }
    assert set(service.answered_by().values()) == {new}
    production.deploy(service.environment, old, quietly)


def fill(disk: Path, spare: int = 0) -> Path:
    """Take the room of a disk but for some bytes; the file that holds it."""
    with (disk / "filler").open("wb", buffering=0) as file:
        with suppress(OSError):  # there is none left
            while spare == 0 or os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize > spare:
                file.write(bytes(4096))
    return disk / "filler"


def test_a_full_disk_changes_nothing_for_anybody(service, home, old) -> None:
    """Without room for the archive, and then without any once only the channel is left to move."""
    if not home.is_mount():
        pytest.skip("a small disk to fill cannot be mounted: needs root")
    (home / "tmp").mkdir()
    variables = os.environ | {"TMPDIR": str(home / "tmp")}
    store = environment_store(service.environment)
    other = store.put(service.write_model(5), lineage={})
    command = [sys.executable, "-m", "cli.main", "deploy", other]
    client = production.serving_client(service.environment)
    before = client.versions(), store.history("production")
    files = {service.environment.folder / "lock", *home.rglob("*")}
    torchserve = production.torchserve_folder(service.environment)
    archives = set(archives_of(torchserve).iterdir())

    filler = fill(home, spare=200_000)
    early = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert set(service.answered_by().values()) == {old}
    filler.unlink()
    assert set(home.rglob("*")) - files == set()
    assert (client.versions(), store.history("production")) == before

    with FileLock(store.objects.root / OWN / "lock"):
        late = subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True)
        assert any("switching to the new version" in line for line in late.stderr)
        filler = fill(home)
    told = late.stderr.read()
    late.stderr.close()
    assert late.wait() == 1
    assert set(service.answered_by().values()) == {old}
    filler.unlink()
    assert archives == set(archives_of(torchserve).iterdir())
    assert (client.versions(), store.history("production")) == before

    for sentence, folder in (
        (early.stderr, archives_of(torchserve)),
        (told, store.objects.root),
    ):
        full = f"Error: The disk of {folder} is full: make room there, then try again."
        assert sentence.splitlines()[-1] == full and "Traceback" not in sentence
    assert production.deploy(service.environment, other, quietly).changed
    production.deploy(service.environment, old, quietly)


def workers_of(jvm: psutil.Process) -> list[psutil.Process]:
    workers = []
    for process in jvm.children():
        # One that has just ended is listed until the JVM notices.
        with suppress(psutil.NoSuchProcess):
            if "model_service_worker" in " ".join(process.cmdline()):
                workers.append(process)
    return workers


def test_a_killed_worker_loses_no_request(service, old) -> None:
    jvm = service.process("torchserve")
    workers = workers_of(jvm)
    seen: Counter[object] = Counter()
    ready = threading.Barrier(5)

    def ask() -> None:
        with httpx.Client(timeout=60) as client:
            client.post(service.url, json={"history": ["item-1"]})
            ready.wait()
            for _ in range(30):
                seen[client.post(service.url, json={"history": []}).status_code] += 1

    asking = [threading.Thread(target=ask) for _ in range(4)]
    for thread in asking:
        thread.start()
    ready.wait()
    for worker in workers:
        worker.kill()
    for thread in asking:
        thread.join()
    assert seen == {200: 120}


def test_a_workers_memory_is_bounded_and_nothing_but_the_proxy_faces_users(service) -> None:
    jvm = service.process("torchserve")
    workers = workers_of(jvm)
    assert workers
    for worker in workers:
        limits = Path(f"/proc/{worker.pid}/limits").read_text()
        (line,) = (line for line in limits.splitlines() if line.startswith("Max data size"))
        assert line.split()[3:5] == [str(4096 * 2**20)] * 2
    listening = [
        connection.laddr.ip.removeprefix("::ffff:")
        for process in (jvm, service.process("serving"))
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert set(listening) == {"127.0.0.1"}
    public = service.url.removesuffix("/predictions/recommend")
    for path in ("/models", "/metrics", "/models/recommend/all"):
        assert httpx.get(public + path).status_code == 403


def test_a_search_model_is_tried_beside_the_one_that_searches(service, old) -> None:
    environment, store = service.environment, environment_store(service.environment)
    first, second = (store.put(service.write_search(seed), lineage={}) for seed in (1, 2))
    with pytest.raises(CommandError, match="Nothing is in production-search to compare with"):
        service.begin(second)
    production.deploy(environment, first, quietly)
    trial = service.begin(second, 50.0, Rules(click_window=60))
    before = service.answered_by("search")
    assert set(before.values()) == {first, second}
    assert set(service.answered_by().values()) == {old}

    # Who names no user is told from others by address, and keeps to a version too.
    url = service.url.replace("recommend", "search")
    answers = [httpx.post(url, json={"query": "kettle"}) for _ in range(5)]
    assert len({answer.json()["model"] for answer in answers}) == 1
    clicked = trials.record_clicks(environment, (answers[0].headers["X-Request-Id"],))

    @once_noted
    def all_counted() -> None:
        errors, _, clicks = compare(environment, clicked, now=time.time() + 61)
        for each in (errors, clicks):
            assert each.production.requests + each.canary.requests == len(USERS) + 5
        assert clicks.production.rate + clicks.canary.rate > 0 == errors.canary.rate

    all_counted()

    with pytest.raises(CommandError, match="is on trial for production-search with 50 % of users"):
        production.roll_back(environment, "search")
    assert not production.deploy(environment, old, quietly).changed  # of another kind: allowed
    production.serving_client(environment, "search").unregister(second)
    assert canary.state(environment)["problem"] == "TorchServe has not loaded it"
    assert canary.mend(environment, quietly) == [second]
    assert canary.mend(environment, quietly) == []
    assert canary.state(environment)["problem"] is None
    assert service.answered_by("search") == before

    promoted = canary.promote(environment, quietly)
    assert (promoted.digest, promoted.previous, promoted.address) == (second, first, url)
    assert set(service.answered_by("search").values()) == {second}
    assert production.roll_back(environment, "search").digest == first
    assert set(service.answered_by("search").values()) == {first}
    service.begin(second, None)
    assert set(service.answered_by("search").values()) == {first}
    assert canary.abort(environment, quietly).model == second
    channels = store.channels()
    assert (channels["production"], channels["production-search"]) == (old, first)
    versions = production.serving_client(environment, "search").versions()
    assert [(version.digest, version.default) for version in versions] == [(first, True)]
