"""What users notice of a new version, a rollback and a dead worker: requests lost, seconds taken.

    python -m benchmarks.deploy [--items 12000] [--clients 4]

TorchServe and nginx run as `hybrid up` starts them, in a home and on ports of their own, while
clients ask one request after the other over connections that they keep. A request counts as lost
where its client gets no answer or another status than 200; clients never ask again.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import torch
import yaml
from rich.console import Console
from rich.table import Table

from cli import production
from cli.application import PROJECT
from cli.environment import Environment
from cli.learning import environment_store
from cli.local import LocalServers
from cli.processes import Supervisor
from recsys.artifact import save_model
from recsys.model import SequentialRecommender
from recsys.recipe import Recipe

HYBRID = Path(sys.executable).parent / "hybrid"


@dataclass
class Load:
    """Clients that ask until the block ends; `answers` has time, status and model of each."""

    url: str
    clients: int
    answers: list[tuple[float, int | str, str | None]] = field(default_factory=list)

    def __enter__(self) -> Load:
        self.done = threading.Event()
        self.threads = [
            threading.Thread(target=self._ask, args=(number,)) for number in range(self.clients)
        ]
        for thread in self.threads:
            thread.start()
        time.sleep(2)
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(2)
        self.done.set()
        for thread in self.threads:
            thread.join()

    def _ask(self, client_number: int) -> None:
        number = client_number
        with httpx.Client(timeout=60, trust_env=False) as client:
            while not self.done.is_set():
                number += self.clients
                headers = {"X-User": f"user-{number % 1000}"}
                try:
                    answer = client.post(self.url, json={"history": ["i1", "i2"]}, headers=headers)
                    found = (answer.status_code, answer.json().get("model"))
                except httpx.HTTPError as error:
                    found = (type(error).__name__, None)
                self.answers.append((time.monotonic(), *found))

    @property
    def lost(self) -> list[int | str]:
        """What the clients got instead of an answer."""
        return [status for _, status, _ in self.answers if status != 200]

    def last_of(self, model: str) -> float:
        """When the last answer of a model came."""
        return max(at for at, _, answered in self.answers if answered == model)

    def told(self) -> str:
        """Asked and lost, for the table."""
        return f"{len(self.lost)} of {len(self.answers):,}" + (
            f" ({', '.join(map(str, sorted(set(map(str, self.lost)))))})" if self.lost else ""
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=12_000)
    parser.add_argument("--clients", type=int, default=4)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hybrid-benchmark-") as folder:
        home = Path(folder)
        os.environ["HYBRID_HOME"] = str(home)
        environment = _environment(home)
        old, new = (_store(environment, seed, arguments.items) for seed in (1, 2))
        supervisor = Supervisor(environment.folder)
        try:
            _start(environment, supervisor)
            production.deploy(environment, old, lambda *_: None)
            rows = _measure(environment, supervisor, old, new, arguments.clients)
        finally:
            supervisor.stop()
    table = Table("what", "requests lost", "seconds")
    for row in rows:
        table.add_row(*row)
    Console(width=110).print(table)


def _measure(
    environment: Environment, supervisor: Supervisor, old: str, new: str, clients: int
) -> list[tuple[str, str, str]]:
    client = production.public_client(environment)
    url = f"{client.inference_url}/predictions/recommend"
    rows = []
    for name, command in (
        ("a canary of 10 %, the command", ["deploy", new, "--canary", "10%", "--detach"]),
        ("its promotion, the command", ["deploy", "--promote"]),
    ):
        with Load(url, clients) as load:
            seconds = _run(command)
        rows.append((name, load.told(), f"{seconds:.2f}"))
    with Load(url, clients) as load:
        start = time.monotonic()
        seconds = _run(["deploy", "--rollback"])
    rows.append(("rollback, the command", load.told(), f"{seconds:.2f}"))
    left = load.last_of(new) - start
    rows.append(("rollback, until the last answer of the version left", "", f"{left:.2f}"))
    _run(["deploy", new, "--canary", "50%", "--detach"])
    with Load(url, clients) as load:
        start = time.monotonic()
        seconds = _run(["deploy", "--abort"])
    rows.append(("taking a canary of 50 % back, the command", load.told(), f"{seconds:.2f}"))
    rows.append(("the same, until its last answer", "", f"{load.last_of(new) - start:.2f}"))
    jvm = next(psutil.Process(s.pid) for s in supervisor.states() if s.name == "torchserve")
    with Load(url, clients) as load:
        for worker in jvm.children(recursive=True):
            worker.kill()
    waited = max(later[0] - sooner[0] for sooner, later in zip(load.answers, load.answers[1:]))
    rows.append(("all workers killed -9, longest wait", load.told(), f"{waited:.2f}"))
    return rows


def _run(arguments: list[str]) -> float:
    start = time.monotonic()
    done = subprocess.run([HYBRID, *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"hybrid {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
    return time.monotonic() - start


def _environment(home: Path) -> Environment:
    settings = yaml.safe_load((PROJECT / "stacks" / "environments" / "local.yaml").read_text())
    with ExitStack() as held:
        for name in settings["ports"]["torchserve"]:
            probe = held.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            settings["ports"]["torchserve"][name] = probe.getsockname()[1]
    settings["limits"] = {"requests_per_second": 1_000_000, "burst": 100_000}
    (home / "environments").mkdir()
    (home / "environments" / "local.yaml").write_text(yaml.safe_dump(settings))
    return Environment.load("local", home)


def _store(environment: Environment, seed: int, items: int) -> str:
    torch.manual_seed(seed)
    recipe = Recipe()
    model = SequentialRecommender(items, recipe)
    names = [f"i{number}" for number in range(items)]
    with tempfile.TemporaryDirectory() as folder:
        artifact = save_model(Path(folder) / "model", model, recipe, names, {})
        return environment_store(environment).put(artifact, lineage={})


def _start(environment: Environment, supervisor: Supervisor) -> None:
    parts = [p for p in LocalServers(environment).services if p.name in ("torchserve", "serving")]
    supervisor.configure(parts)
    supervisor.start(parts)
    supervisor.wait(parts)


if __name__ == "__main__":
    main()
