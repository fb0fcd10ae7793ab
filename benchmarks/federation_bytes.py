"""Bytes of a federated round, and what compression costs in accuracy and memory.

Sites and server in this process, without Flower's transport, but with the functions that the
ClientApp and the ServerApp call. The peer ("stock") is Flower's FedAvg: all weights as float32, to
each site and back, and sites that begin afresh in each round. Its rounds are run here too, for the
accuracy, with the same data and seeds. On Beauty the sites of all others keep their optimizers'
moments, so that the accuracy of "none" tells what a compression costs.

    python -m benchmarks.federation_bytes                 # both parts
    python -m benchmarks.federation_bytes --only table    # 400,000 x 64, minutes
    python -m benchmarks.federation_bytes --only beauty --arms stock none --rounds 20
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

from federation.checkpoint import Checkpoint, digest
from federation.compression import Compression, apply, decode, encode
from federation.downlink import advance
from federation.strategies.averaging import FedAvg, mean_delta
from federation.updates import Update, Weights, check_update, difference
from recsys.data.interactions import Interactions, load_interactions
from recsys.data.split import leave_one_out
from recsys.evaluate import evaluate
from recsys.finetune import fewest_steps, train_local
from recsys.loop import Moments
from recsys.model import SequentialRecommender
from recsys.randomness import Stage, seeded
from recsys.recipe import Recipe

BEAUTY = Path(__file__).resolve().parents[1] / "../shared/data/amazon_beauty_5core"
SITES = 5
# Of the learning rate, in the last round: `--final-rate` of `hybrid federate`.
FINAL_RATE = 0.05
PLAIN = Compression("none")
METHOD_OF = {"stock": PLAIN, "none": PLAIN} | {
    method: Compression(method) for method in ("rows", "int8", "signs")
}


@dataclass(frozen=True)
class Outcome:
    """Bytes of each round to and from all sites and of the whole model, and the last weights."""

    down: list[int]
    up: list[int]
    whole: int
    weights: Weights


class Server:
    """What the ServerApp does between the sites' answers and the next round's messages."""

    def __init__(self, weights: Weights, compression: Compression) -> None:
        self.weights, self.compression = weights, compression
        self.residual: Weights = {}

    def step(self, answers: Sequence[tuple[str, bytes, int]]) -> bytes | None:
        """Take (site, message, examples) of all sites; returns what goes down, None for all."""
        updates = []
        for site, message, examples in answers:
            update = Update(site, decode(message, self.weights), examples, 0.0)
            check_update(self.weights, update)
            updates.append(update)
        if self.compression == PLAIN:
            self.weights, _ = FedAvg().aggregate(self.weights, updates, {})
            return None
        change = mean_delta(updates)
        del updates, update  # as federation.rounds does
        message, self.residual = advance(
            self.weights, change, self.residual, self.compression
        )
        return message


def federate(
    sites: Sequence[Interactions],
    model: SequentialRecommender,
    recipe: Recipe,
    server: Server,
    *,
    rounds: int,
    seed: int,
    epochs: int = 1,
    keep_moments: bool = False,
    watch: Callable[[int, Weights], None] = lambda number, weights: None,
) -> Outcome:
    """Train the model on the sites' events, all sites in every round, with a rate that falls.

    `watch` sees the number of each round that has ended and the model after it.
    """
    moments = [Moments() if keep_moments else None for _ in sites]
    steps = fewest_steps(rounds * epochs, keep_moments)
    held = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    whole = sum(array.nbytes for array in held.values())
    waiting: list[Weights] = [{} for _ in sites]
    down, up = [], []
    for number in range(rounds):
        rate = recipe.learning_rate * (1 - (1 - FINAL_RATE) * number / max(rounds - 1, 1))
        slower = replace(recipe, learning_rate=rate)
        answers = []
        for site, events in enumerate(sites):
            model.load_state_dict({name: torch.from_numpy(a) for name, a in held.items()})
            train_local(
                model, events, slower, epochs=epochs, seed=(seed * 1000 + number) * 100 + site,
                moments=moments[site], steps=steps,
            )  # fmt: skip
            trained = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
            message, waiting[site] = encode(
                difference(trained, held), waiting[site], server.compression, held
            )
            answers.append((str(site), message, len(events.sequence)))
        message = server.step(answers)
        if message is None:
            held = server.weights
        else:
            apply(message, held)
        down.append(len(sites) * (whole if message is None else len(message)))
        up.append(sum(len(message) for _, message, _ in answers))
        moved = (down[-1] + up[-1]) / 1e6
        print(
            f"  {server.compression}, round {number + 1}: {moved:.2f} MB",
            file=sys.stderr,
            flush=True,
        )
        watch(number + 1, held)
    return Outcome(down, up, whole, held)


def beauty(
    data: Path,
    rounds: int,
    epochs: int,
    arms: Sequence[str],
    compressions: Sequence[Compression],
    seed: int,
    every: int,
) -> None:
    """Print bytes a round and NDCG@10 of each arm, the test's beside that of the first.

    The validation's is also printed after `every` so many rounds, if that is not 0.
    """
    interactions = replace(load_interactions(data), item_text=None)
    split = leave_one_out(interactions)
    homes = np.arange(len(interactions.users)) % SITES
    sites = [split.train.select(np.flatnonzero(homes == site)) for site in range(SITES)]
    recipe = Recipe(dimension=64, length=50, dropout=0.2, horizon=1, negatives=256)
    print(
        f"{data.name}, d=64, {SITES} sites, {rounds} rounds of {epochs} epochs, seed {seed}",
        flush=True,
    )
    first = 0.0

    def quality(weights: Weights, part: str) -> float:
        model.load_state_dict({name: torch.from_numpy(a) for name, a in weights.items()})
        return evaluate(model, interactions, split, part=part)["NDCG@10"]

    def watch(number: int, weights: Weights) -> None:
        if every and number % every == 0:
            found = quality(weights, "validation")
            print(f"  {arm}, round {number}: NDCG@10 validation {found:.5f}", flush=True)

    for arm in [*arms, *compressions]:
        compression = arm if isinstance(arm, Compression) else METHOD_OF[arm]
        with seeded(seed, Stage.WEIGHTS):
            model = SequentialRecommender(len(interactions.items), recipe)
        server = Server(_weights(model), compression)
        outcome = federate(
            sites, model, recipe, server, rounds=rounds, seed=seed, epochs=epochs,
            keep_moments=arm != "stock", watch=watch,
        )  # fmt: skip
        validation, test = (quality(outcome.weights, part) for part in ("validation", "test"))
        report(compression, outcome)
        first = first or test
        print(
            f"  {arm}: NDCG@10 validation {validation:.5f}, test {test:.5f}, "
            f"{test / first - 1:+.2%} against the first's",
            flush=True,
        )


def table(items: int, users: int, rounds: int, compressions: Sequence[Compression]) -> None:
    """Print bytes a round and the server's memory where sites touch few rows of a large table."""
    generator = np.random.default_rng(0)
    recipe = Recipe(dimension=64, length=50, dropout=0.2, horizon=1)
    names = [str(item) for item in range(items)]
    sites = []
    for _ in range(SITES):
        lengths = generator.integers(5, 16, users)
        # Few items take most of the events, as in shops.
        events = (items * generator.random(lengths.sum()) ** 3).astype(np.int32)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        sites.append(Interactions(names[:users], names, offsets, events))
    print(f"{items:,} x 64, {SITES} sites of {users} users, {rounds} rounds", flush=True)
    for compression in compressions:
        with seeded(0, Stage.WEIGHTS):
            model = SequentialRecommender(items, recipe)
        with tempfile.TemporaryDirectory() as folder:
            server = SeparateServer(_weights(model), compression, Path(folder))
            outcome = federate(sites, model, recipe, server, rounds=rounds, seed=0)
            memory = server.memory()
        report(compression, outcome)
        print(f"  server's memory: {memory / outcome.whole:.2f} x the model", flush=True)


class SeparateServer:
    """A :class:`Server` in a process of its own, so that its memory can be told."""

    def __init__(self, weights: Weights, compression: Compression, folder: Path) -> None:
        self.compression = compression
        np.savez(folder / "weights.npz", **weights)
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(other, folder / "weights.npz", compression)
        )
        self._process.start()

    def step(self, answers: Sequence[tuple[str, bytes, int]]) -> bytes:
        """See :meth:`Server.step`."""
        self._pipe.send(answers)
        return self._pipe.recv()

    def memory(self) -> int:
        """End the process; returns by how many bytes it has grown since it had no model."""
        self._pipe.send(None)
        grown = self._pipe.recv()
        self._process.join()
        return grown


def _serve(pipe: Connection, file: Path, compression: Compression) -> None:
    before = _memory("VmRSS")
    with np.load(file) as stored:
        server = Server({name: stored[name] for name in stored.files}, compression)
    number = 0
    while (answers := pipe.recv()) is not None:
        number += 1
        pipe.send(server.step(answers))
        record = {"round": number, "model": digest(server.weights)}
        Checkpoint(number, server.weights, {}, [record], server.residual).save(file.parent)
    pipe.send(_memory("VmHWM") - before)


def _memory(which: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most. getrusage would tell of its parent too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{which}:")[1].split()[0]) * 1024


def report(compression: Compression, outcome: Outcome) -> None:
    """Print the bytes of a round and how many times fewer they are than the peer's."""
    peer = 2 * SITES * outcome.whole
    rounds = [down + up for down, up in zip(outcome.down, outcome.up, strict=True)]
    usual = statistics.median(rounds)
    # A site that takes part for the first time gets the whole model.
    run = sum(rounds) + (0 if compression == PLAIN else SITES * outcome.whole)
    print(
        f"{compression}: median round {usual / 1e6:.3f} MB "
        f"(down {statistics.median(outcome.down) / 1e6:.3f}, "
        f"up {statistics.median(outcome.up) / 1e6:.3f}), {peer / usual:.1f} x fewer than "
        f"{peer / 1e6:.1f} MB; {len(rounds)} rounds with the first whole model {run / 1e6:.1f} MB",
        flush=True,
    )


def _weights(model: SequentialRecommender) -> Weights:
    return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=("beauty", "table"))
    parser.add_argument("--data", type=Path, default=BEAUTY)
    parser.add_argument("--rounds", type=int, default=15, help="rounds on Beauty")
    parser.add_argument("--local-epochs", type=int, default=1, help="of a round on Beauty")
    parser.add_argument("--every", type=int, default=0, help="rounds on Beauty between two figures")
    parser.add_argument("--arms", nargs="+", choices=METHOD_OF, help="of both parts",
                        default=["stock", "none", "signs"])
    parser.add_argument("--share", type=float, action="append", help="of topk too; may be repeated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--items", type=int, default=400_000, help="rows of the large table")
    parser.add_argument("--users", type=int, default=100, help="of each site of the large table")
    options = parser.parse_args()
    shares = [Compression("topk", share) for share in options.share or []]
    if options.only != "beauty":
        schemes = [METHOD_OF[arm] for arm in options.arms if METHOD_OF[arm] != PLAIN]
        table(options.items, options.users, 3, schemes + shares)
    if options.only != "table":
        if not options.data.exists():
            sys.exit(f"no data at {options.data}: give a folder with --data")
        beauty(
            options.data.resolve(), options.rounds, options.local_epochs, options.arms, shares,
            options.seed, options.every,
        )  # fmt: skip


if __name__ == "__main__":
    main()
