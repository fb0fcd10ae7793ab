"""One epoch of training: seconds, peak memory and quality, beside RecTools' SASRec.

    python -m benchmarks.training [--data FOLDER] [--epochs 5] [--peer-python PYTHON] [--whole]

Both sides train next-item prediction with the full softmax on the same events, at the same width,
blocks, heads and length, each in a process of its own; a further row is this project's default,
the sampled softmax. An epoch is all of it: data order, forward,
backward and optimizer; beside its time stands that of all processors, which other work on the
machine hardly changes. NDCG@10 (test, full ranking, seen items left out) is that after the epochs
measured, so it compares learning per epoch; `--whole` also runs the default recipe to its end.

The peer needs an environment of its own: `uv venv /tmp/peer && uv pip install -p /tmp/peer
"rectools[torch]==0.19.*"`, then `--peer-python /tmp/peer/bin/python`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

# The peer's interpreter runs this file too: what only one side has is imported where it is used.

BEAUTY = Path(__file__).resolve().parents[1] / "../shared/data/amazon_beauty_5core"
DIMENSION, BLOCKS, HEADS, LENGTH = 64, 1, 2, 50
DROPOUT = 0.2
# The losses that this project is measured with.
SIDES = ("softmax", "sampled")


def measure_hybrid(data: Path, epochs: int, loss: str) -> dict:
    """Epoch times and test NDCG@10 of this project's model, without item texts as the peer's."""
    from recsys.data.interactions import load_interactions
    from recsys.data.split import leave_one_out
    from recsys.evaluate import evaluate
    from recsys.finetune import train_local
    from recsys.model import SequentialRecommender
    from recsys.randomness import Stage, seeded
    from recsys.recipe import Recipe

    interactions = load_interactions(data)
    split = leave_one_out(interactions)
    # The peer predicts the next item only.
    recipe = Recipe(
        dimension=DIMENSION,
        blocks=BLOCKS,
        heads=HEADS,
        length=LENGTH,
        dropout=DROPOUT,
        loss=loss,
        horizon=1,
    )
    with seeded(0, Stage.WEIGHTS):
        model = SequentialRecommender(len(interactions.items), recipe)
    clock = [now()]
    train_local(
        model,
        split.train,
        recipe,
        epochs=epochs,
        seed=0,
        progress=lambda *_: clock.append(now()),
    )
    memory = peak_memory()
    ndcg = evaluate(model, interactions, split, part="test")["NDCG@10"]
    return {"epochs": differences(clock), "memory": memory, "ndcg": ndcg}


def measure_rectools(events: Path, epochs: int) -> dict:
    """The same for RecTools; `events` holds user, item, order and part of every event."""
    import numpy as np
    import pandas as pd
    from pytorch_lightning import Callback, Trainer
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    frame = pd.read_csv(events)
    frame[Columns.Weight] = 1.0
    frame[Columns.Datetime] = pd.to_datetime(frame.pop("order"), unit="s")
    clock: list[tuple[float, float]] = []

    class Clock(Callback):
        def on_train_start(self, *_: object) -> None:
            clock.append(now())

        def on_train_epoch_end(self, *_: object) -> None:
            clock.append(now())

    def trainer() -> Trainer:
        return Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            callbacks=[Clock()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    model = SASRecModel(
        n_blocks=BLOCKS,
        n_heads=HEADS,
        n_factors=DIMENSION,
        session_max_len=LENGTH,
        dropout_rate=DROPOUT,
        loss="softmax",
        get_trainer_func=trainer,
    )
    columns = [Columns.User, Columns.Item, Columns.Weight, Columns.Datetime]
    model.fit(Dataset.construct(frame.loc[frame["part"] == "train", columns]))
    memory = peak_memory()
    test = frame[frame["part"] == "test"].set_index(Columns.User)[Columns.Item]
    known = set(frame.loc[frame["part"] == "train", Columns.Item])
    shown = frame[(frame["part"] != "test") & frame[Columns.Item].isin(known)]
    recommended = model.recommend(
        users=test.index.to_numpy(),
        dataset=Dataset.construct(shown[columns]),
        k=10,
        filter_viewed=True,
        on_unsupported_targets="ignore",
    )
    wanted = test[recommended[Columns.User]].to_numpy()
    hits = recommended[recommended[Columns.Item].to_numpy() == wanted]
    ndcg = float((1 / np.log2(hits[Columns.Rank] + 1)).sum() / len(test))
    return {"epochs": differences(clock), "memory": memory, "ndcg": ndcg}


def now() -> tuple[float, float]:
    """Seconds on the wall's clock, and of all processors that this process has used."""
    return time.perf_counter(), time.process_time()


def differences(clock: list[tuple[float, float]]) -> list[list[float]]:
    """Seconds of each epoch on both clocks."""
    return [
        [end - start for start, end in zip(before, after, strict=True)]
        for before, after in zip(clock, clock[1:], strict=False)
    ]


def peak_memory() -> int:
    """Bytes of this process at its largest, the interpreter and torch included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write_events(data: Path, file: Path) -> None:
    """The events with their part of the leave-one-out split, for a peer that loads otherwise."""
    import polars as pl

    from recsys.data.interactions import load_interactions

    interactions = load_interactions(data)
    rows = []
    for user in range(len(interactions.users)):
        events = interactions.of(user).tolist()
        held = ["validation", "test"] if len(events) >= 3 else []
        parts = ["train"] * (len(events) - len(held)) + held
        rows += [(user, *row) for row in zip(events, range(len(events)), parts, strict=True)]
    columns = ["user_id", "item_id", "order", "part"]
    pl.DataFrame(rows, schema=columns, orient="row").write_csv(file)


def in_process(python: str, side: str, data: Path, epochs: int) -> dict | str:
    """Measure one side in its own process; a sentence instead of figures when that fails."""
    command = [python, __file__, "--measure", side, "--data", str(data), "--epochs", str(epochs)]
    environment = {
        # Threads that spin while they wait take the cores from whatever else runs.
        "OMP_WAIT_POLICY": "passive",
        **os.environ,
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
    return json.loads(done.stdout.strip().splitlines()[-1])


def report(data: Path, epochs: int, peer_python: str | None, peer_epochs: int, whole: bool) -> None:
    """Measure both sides and print the table."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    title = f"{data.name}: d={DIMENSION}, {BLOCKS} block, length {LENGTH}, median epoch"
    table = Table(title=title)
    for heading in ("", "epoch (s)", "of processors (s)", "epochs", "peak (MiB)", "NDCG@10"):
        table.add_column(heading, justify="right" if heading else "left")

    def add(name: str, figures: dict | str) -> tuple[float, float] | None:
        if isinstance(figures, str):
            console.print(f"{name} failed: {figures}", soft_wrap=True)
            return None
        wall, processors = map(statistics.median, zip(*figures["epochs"], strict=True))
        table.add_row(
            name,
            f"{wall:.1f}",
            f"{processors:.1f}",
            str(len(figures["epochs"])),
            f"{figures['memory'] / 2**20:.0f}",
            f"{figures['ndcg']:.4f}",
        )
        return wall, processors

    ours = add("hybrid", in_process(sys.executable, "softmax", data, epochs))
    add("hybrid, sampled softmax", in_process(sys.executable, "sampled", data, epochs))
    peer = None
    if peer_python is None:
        console.print("RecTools is absent: give an interpreter that has it with --peer-python")
    else:
        with tempfile.TemporaryDirectory() as folder:
            events = Path(folder) / "events.csv"
            write_events(data, events)
            peer = add("RecTools SASRec", in_process(peer_python, "rectools", events, peer_epochs))
    console.print(table)
    if ours and peer:
        wall, processors = (theirs / own for theirs, own in zip(peer, ours, strict=True))
        console.print(
            f"RecTools takes {wall:.1f} times as long an epoch, "
            f"and {processors:.1f} times the processors' time"
        )
    if whole:
        train_whole(data, console.print)


def train_whole(data: Path, say: Callable[[str], None]) -> None:
    """Run the default recipe to its end."""
    from recsys.data.interactions import load_interactions
    from recsys.recipe import Recipe
    from recsys.training import train

    with tempfile.TemporaryDirectory() as folder:
        result = train(load_interactions(data), Recipe(), folder)
    say(
        f"default recipe: test NDCG@10 {result.metrics['NDCG@10']:.4f} "
        f"(unmasked {result.metrics['NDCG@10 unmasked']:.4f}, "
        f"popularity {result.metrics['popularity NDCG@10']:.4f}) "
        f"after {result.epochs} epochs, {result.seconds / 60:.1f} minutes"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=BEAUTY)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--peer-python", help="interpreter of an environment with rectools[torch]")
    parser.add_argument("--peer-epochs", type=int, help="epochs of the peer, if not --epochs")
    parser.add_argument("--whole", action="store_true", help="run the default recipe to its end")
    parser.add_argument("--measure", choices=(*SIDES, "rectools"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.data.exists():
        sys.exit(f"no data at {options.data}: give a folder with --data")
    if options.measure:
        if options.measure == "rectools":
            figures = measure_rectools(options.data, options.epochs)
        else:
            figures = measure_hybrid(options.data, options.epochs, options.measure)
        print(json.dumps(figures))
        return
    report(
        options.data.resolve(),
        options.epochs,
        options.peer_python,
        options.peer_epochs or options.epochs,
        options.whole,
    )


if __name__ == "__main__":
    main()
