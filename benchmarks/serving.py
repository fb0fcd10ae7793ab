"""What a recommendation costs on TorchServe, against its own ways.

    python -m benchmarks.serving [--data FOLDER] [--model ARTEFACT] [--only PART …]

- throughput: the largest Poisson load that is answered within 50 ms at the 99th percentile, of our
  handler and of a BaseHandler that runs the same model eagerly;
- latency: single requests one after another, in turns with a handler that does nothing and the model
  in this process by ONNX Runtime (with OPENBLAS_NUM_THREADS=1 it has one thread, as a worker has);
- million: a catalogue of a million variants of the trained items, at 50 requests a second.

Load, server and model share the machine's cores.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import numpy as np
import psutil
import torch
from rich.console import Console

from benchmarks.acceleration import BEAUTY, trained, variants
from benchmarks._load import send
from cli.torchserve import archives_of, torchserve_command
from handlers.archive import build_archive
from recsys.accelerate.runtime import open_runtime
from recsys.artifact import load_model, save_model
from recsys.data.interactions import load_interactions
from recsys.model import SequentialRecommender

DIGEST = "sha256:" + "0" * 64
LIMIT_MS, STEP, SECONDS = 50.0, 1.25, 5
SINGLE, TURN = 4000, 200
# Answers held against the whole product.
COMPARED = 200
PARTS = ("throughput", "latency", "million")
EMPTY = '''"""Answers at once."""


class EmptyHandler:
    def initialize(self, context):
        pass

    def handle(self, data, context):
        return ["{}"] * len(data)
'''


@dataclass(frozen=True)
class Server:
    """A running TorchServe."""

    folder: Path
    inference: int
    management: int
    process: int

    def register(self, archive: Path) -> float:
        """Load an archive; the seconds until it is ready."""
        start = time.perf_counter()
        answer = httpx.post(
            f"http://127.0.0.1:{self.management}/models",
            params={"url": archive.name, "initial_workers": 1, "synchronous": True},
            timeout=600,
        )
        answer.raise_for_status()
        return time.perf_counter() - start

    def workers(self) -> set[int]:
        """Processes that run models."""
        found = psutil.Process(self.process).children(recursive=True)
        return {each.pid for each in found if any("model_service" in a for a in each.cmdline())}


@contextmanager
def torchserve(folder: Path, variables: Mapping[str, str] | None = None) -> Iterator[Server]:
    with socket.socket() as one, socket.socket() as other:
        for probe in (one, other):
            probe.bind(("127.0.0.1", 0))
        ports = one.getsockname()[1], other.getsockname()[1]
    command, environment = torchserve_command(
        folder, inference_port=ports[0], management_port=ports[1]
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, env=os.environ | environment | dict(variables or {}), cwd=folder, stdout=log,
            stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{ports[0]}/ping")
                break
            except httpx.TransportError:
                time.sleep(0.2)
        yield Server(folder, *ports, process.pid)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def peer_archive(ours: Path, name: str, handler: str) -> Path:
    """The archive of the same model with another handler, in TorchServe's default configuration."""
    target = ours.with_name(f"{name}.mar")
    with zipfile.ZipFile(ours) as source, zipfile.ZipFile(target, "w") as copy:
        for entry in source.namelist():
            if entry.startswith("MAR-INF/MANIFEST"):
                manifest = json.loads(source.read(entry))
                manifest["model"] |= {"modelName": name, "handler": f"{name}.py"}
                copy.writestr(entry, json.dumps(manifest))
            elif entry == "model-config.yaml":
                copy.writestr(entry, "minWorkers: 1\nmaxWorkers: 1\n")
            else:
                copy.writestr(entry, source.read(entry))
        copy.writestr(f"{name}.py", handler)
    return target


def bodies(histories: list[list[str]], count: int) -> list[bytes]:
    return [
        json.dumps({"history": histories[n % len(histories)], "k": 10}).encode()
        for n in range(count)
    ]


def most_requests(port: int, model: str, histories: list[list[str]], start: float) -> str:
    """Raise the load until answers are late or wrong; what the last good step was."""
    path, rate, best = f"/predictions/{model}", start, "none"
    send(port, path, bodies(histories, 200), rate=None)
    while True:
        load = send(port, path, bodies(histories, round(SECONDS * rate)), rate)
        if load.failed or load.percentile(99) > LIMIT_MS:
            return f"{best} (at {rate:.0f}/s: p99 {load.percentile(99):.0f} ms)"
        p50, p99 = load.percentile(50), load.percentile(99)
        best = f"{len(load.milliseconds) / load.seconds:.0f}/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms"
        rate *= STEP


def throughput(server: Server, histories: list[list[str]], say) -> None:
    say("stock BaseHandler, eager:", most_requests(server.inference, "stock", histories, 10))
    say("our handler:", most_requests(server.inference, "recommend", histories, 100))


def latency(server: Server, histories: list[list[str]], artifact: Path, say) -> None:
    """Ask in turns: a machine that others use is now quicker, now slower."""
    asked = bodies(histories, SINGLE)
    runtime, items = open_runtime(artifact)
    places = {item: place for place, item in enumerate(items)}
    known = [
        np.array([places[item] for item in histories[n % len(histories)]]) for n in range(SINGLE)
    ]

    def here(answer: Callable[[np.ndarray], object], part: slice) -> float:
        times = []
        for history in known[part]:
            start = time.perf_counter()
            answer(history)
            times.append(1000 * (time.perf_counter() - start))
        return float(np.median(times))

    def served(model: str, part: slice) -> float:
        return send(server.inference, f"/predictions/{model}", asked[part], None).percentile(50)

    ways: dict[str, Callable[[slice], float]] = {
        "an empty handler": lambda part: served("empty", part),
        "ours": lambda part: served("recommend", part),
        "the model here": lambda part: here(
            lambda h: runtime.rank(runtime.encode([h]), [h], 10, seen=False), part
        ),
        "the same as one graph": lambda part: here(
            lambda h: runtime.one_step(h, 10, False), part
        ),
    }
    turns: dict[str, list[float]] = {name: [] for name in ways}
    for start in range(0, SINGLE, TURN):
        for name, way in ways.items():
            turns[name].append(way(slice(start, start + TURN)))
    for name, medians in turns.items():
        low, middle, high = np.percentile(medians, [25, 50, 75])
        say(f"{name}: p50 {middle:.2f} ms (half of the turns: {low:.2f} to {high:.2f})")
    empty, ours, *bare = map(np.array, turns.values())
    for name, alone in zip(list(ways)[2:], bare):
        more = np.median(ours - empty - 1.5 * alone)
        say(f"ours, less an empty handler and 1.5 x {name}: {more:+.2f} ms")


def million_items(artifact: Path, items: int, target: Path) -> Path:
    """The model with a catalogue of variants of its items, the first of them the items itself."""
    loaded = load_model(artifact)
    model = loaded.model.folded()
    torch.manual_seed(0)
    own = model.output_table.detach()
    table = torch.cat([own, variants(own, items - len(own))])
    large = SequentialRecommender(items, replace(loaded.recipe, text_buckets=0))
    weights = model.state_dict() | {"item_embedding.weight": torch.cat([table, table[:1]])}
    large.load_state_dict(weights)
    names = loaded.items + [f"variant-{n}" for n in range(items - len(own))]
    return save_model(target, large, loaded.recipe, names, {})


def million(server: Server, histories: list[list[str]], artifact: Path, rate: int, say) -> None:
    archive = archives_of(server.folder) / "million.mar"
    build_archive(artifact, DIGEST, archive)
    say(f"ready after {server.register(archive):.0f} s")
    path = "/predictions/recommend"
    send(server.inference, path, bodies(histories, 200), rate=None)
    asked = bodies(histories, 30 * rate)
    load = send(server.inference, path, asked, rate)
    loaded = load_model(artifact)
    places = {item: place for place, item in enumerate(loaded.items)}
    shares = []
    for body, answer in list(zip(asked, load.bodies, strict=True))[:COMPARED]:
        history = [places[item] for item in json.loads(body)["history"]]
        with torch.inference_mode():
            scores = loaded.model.scores(loaded.model.encode([history]))[0]
            scores[history] = -torch.inf
        got = {places[row["item"]] for row in json.loads(answer)["items"]}
        shares.append(len(got & set(scores.topk(10).indices.tolist())) / 10)
    say(
        f"{len(loaded.items):,} items at {rate} requests/s: p50 {load.percentile(50):.1f} ms, "
        f"p99 {load.percentile(99):.1f} ms, failed {load.failed}, recall@10 {np.mean(shares):.4f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=BEAUTY)
    parser.add_argument("--model", type=Path, help="artefact trained on the data")
    parser.add_argument("--epochs", type=int, default=8, help="of training, without --model")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--rate", type=int, default=50)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    arguments = parser.parse_args()
    if not arguments.data.exists():
        sys.exit(f"no data at {arguments.data}: give a folder with --data")
    say = Console().print
    interactions = load_interactions(arguments.data)
    users = np.random.default_rng(0).permutation(len(interactions.users))[:2000]
    histories = [[interactions.items[item] for item in interactions.of(u)] for u in users]
    with tempfile.TemporaryDirectory() as scratch:
        artifact = arguments.model or trained(
            interactions, arguments.epochs, Path(scratch) / "run"
        )
        if set(arguments.only) & {"throughput", "latency"}:
            folder = Path(scratch) / "small"
            folder.mkdir()
            with torchserve(folder) as server:
                ours = build_archive(artifact, DIGEST, archives_of(folder) / "recommend.mar")
                stock = Path(__file__).with_name("_serving_handlers.py").read_text()
                for archive in (
                    ours, peer_archive(ours, "stock", stock), peer_archive(ours, "empty", EMPTY)
                ):  # fmt: skip
                    say(f"{archive.stem} ready after {server.register(archive):.1f} s")
                if "latency" in arguments.only:
                    latency(server, histories, artifact, say)
                if "throughput" in arguments.only:
                    throughput(server, histories, say)
        if "million" in arguments.only:
            large = million_items(artifact, arguments.items, Path(scratch) / "large")
            folder = Path(scratch) / "big"
            folder.mkdir()
            with torchserve(folder) as server:
                million(server, histories, large, arguments.rate, say)


if __name__ == "__main__":
    main()
