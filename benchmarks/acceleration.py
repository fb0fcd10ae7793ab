"""Top-10 of a million items, and what pruning, int8 and ONNX bring to a trained model.

    python -m benchmarks.acceleration [--data FOLDER] [--model ARTEFACT] [--only PART …]

Without `--model` one is trained on the data first. The million items come in three kinds, because
what a search costs hangs on how items lie:

- variants: every item is a trained row and a small deviation, as sizes and colours of one product;
- same-density: trained rows mixed with their neighbours' differences (manifold Parzen windows,
  Vincent and Bengio, 2002): no item is closer to others than trained ones are, the hard case;
- gaussian: independent noise, in which there is nothing to find; no trained table is like it.

States are those of the data's users; one half of them makes and calibrates the index, the other
half is searched for, one at a time. The peer is exact search by faiss. `similar` finds the items
near one of the variants by the cosine, against the whole product.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from recsys.accelerate.job import Acceleration, accelerate
from recsys.artifact import load_model
from recsys.data.interactions import Interactions, load_interactions
from recsys.exact import ExactIndex, best_of
from recsys.index import ApproximateIndex, CosineIndex
from recsys.recipe import Recipe
from recsys.training import train

BEAUTY = Path(__file__).resolve().parents[1] / "../shared/data/amazon_beauty_5core"
VARIANT = 0.1
NEIGHBOURS = 16
QUERIES, PASSES = 500, 10
HOW = {
    "int8": Acceleration(quantise="int8"),
    "ONNX": Acceleration(onnx=True),
    "int8, ONNX": Acceleration(quantise="int8", onnx=True),
    "half pruned": Acceleration(prune=0.5, epochs=2),
    "half pruned, int8, ONNX": Acceleration(prune=0.5, epochs=2, quantise="int8", onnx=True),
}


def trained(interactions: Interactions, epochs: int, folder: Path) -> Path:
    """Train the default recipe at width 64 for a few epochs."""
    return train(interactions, Recipe(dimension=64, epochs=epochs), folder).artifact


def variants(table: Tensor, count: int) -> Tensor:
    chosen = table[torch.randint(len(table), (count,))]
    return chosen + VARIANT * table.std() * torch.randn_like(chosen)


def same_density(table: Tensor, count: int) -> Tensor:
    flat = faiss.IndexFlatL2(table.shape[1])
    flat.add(table.numpy())
    near = torch.from_numpy(flat.search(table.numpy(), NEIGHBOURS + 1)[1][:, 1:])
    parts = []
    for chosen in torch.randint(len(table), (count,)).split(50_000):
        weights = torch.randn(len(chosen), 1, NEIGHBOURS) / NEIGHBOURS**0.5
        away = table[near[chosen]] - table[chosen][:, None]
        parts.append(table[chosen] + torch.bmm(weights, away)[:, 0])
    return torch.cat(parts)


def gaussian(table: Tensor, count: int) -> Tensor:
    return torch.randn(count, table.shape[1])


def milliseconds(search: Callable[[Tensor], object], states: Tensor) -> np.ndarray:
    """p50 and p99 of single states, over some seconds: a virtual core's speed comes and goes."""
    times = []
    for state in states.repeat(PASSES, *[1] * (states.dim() - 1)).split(1):
        start = time.perf_counter()
        search(state)
        times.append(1000 * (time.perf_counter() - start))
    return np.percentile(times[len(times) // 10 :], [50, 99])


KINDS = {"variants": variants, "same-density": same_density, "gaussian": gaussian}


def search_table(
    kinds: list[str], trained_table: Tensor, user_states: Tensor, items: int, threads: int
) -> Table:
    """Measure both searches on each kind of catalogue."""
    title = f"top 10 of {items:,} × {trained_table.shape[1]}, {threads} threads, single states"
    columns = ("items", "recall", "p50 (ms)", "p99 (ms)", "exact p50 (ms)", "visited", "build (s)")
    report = Table(*columns, title=title)
    for kind in kinds:
        torch.manual_seed(0)
        table = KINDS[kind](trained_table, items)
        states = user_states if kind != "gaussian" else torch.randn_like(user_states)
        states = states[torch.randperm(len(states))]
        queries, sample = states[:QUERIES], states[QUERIES:]
        start = time.perf_counter()
        index = ApproximateIndex(table.numpy(), sample.numpy())
        build = time.perf_counter() - start
        exact = faiss.IndexFlatIP(table.shape[1])
        exact.add(table.numpy())
        wanted = torch.from_numpy(exact.search(queries.numpy(), 10)[1])
        single = queries.numpy()[:, None]
        found = torch.from_numpy(np.concatenate([index.search(q, 10)[1] for q in single]))
        recall = (found[:, :, None] == wanted[:, None, :]).any(2).double().mean()
        p50, p99 = milliseconds(lambda q, index=index: index.search(q.numpy(), 10), queries)
        slow, _ = milliseconds(lambda q, exact=exact: exact.search(q.numpy(), 10), queries[:30])
        report.add_row(
            kind,
            f"{recall:.4f}",
            f"{p50:.3f}",
            f"{p99:.3f}",
            f"{slow:.1f}",
            f"{index.visited:.1%}",
            f"{build:.0f}",
        )
    return report


def similar_table(trained_table: Tensor, items: int) -> Table:
    """Measure the search for items like one."""
    torch.manual_seed(0)
    table = variants(trained_table, items)
    norms = table.norm(dim=1)
    unit = (table / norms[:, None]).numpy()
    start = time.perf_counter()
    index = CosineIndex(ExactIndex(table.numpy()), norms.numpy())
    build = time.perf_counter() - start
    asked = torch.randperm(items)[:30]

    def whole(item: Tensor) -> np.ndarray:
        cosines = unit[item.numpy()] @ unit.T
        cosines[0, item.numpy()] = -np.inf
        return best_of(cosines, 10)[1]

    hits = [np.isin(index.search(item.numpy(), 10)[1], whole(item)) for item in asked.split(1)]
    p50, p99 = milliseconds(lambda item: index.search(item.numpy(), 10), asked)
    slow, _ = milliseconds(whole, asked)
    report = Table("recall", "p50 (ms)", "p99 (ms)", "exact p50 (ms)", "build (s)",
                   title=f"10 of {items:,} items like one")  # fmt: skip
    row = (np.mean(hits), p50, p99, slow, build)
    report.add_row(*map("{:.{}f}".format, row, (4, 1, 1, 1, 1)))
    return report


def model_table(folder: Path, interactions: Interactions) -> Table:
    """Measure every way of acceleration on one model."""
    title = "a stored model before and after; p50 of one request in turns with the model before"
    report = Table("", "MB", "p50 (ms)", "before (ms)", "NDCG@10", "before", title=title)
    for name, how in HOW.items():
        with tempfile.TemporaryDirectory() as scratch:
            done = accelerate(folder, interactions, how, Path(scratch) / "model")
        report.add_row(
            name,
            f"{done.after.size / 1e6:.2f} of {done.before.size / 1e6:.2f}",
            f"{done.after.p50_ms:.3f}",
            f"{done.before.p50_ms:.3f}",
            f"{done.after.metrics['NDCG@10']:.4f}",
            f"{done.before.metrics['NDCG@10']:.4f}",
        )
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=BEAUTY)
    parser.add_argument("--model", type=Path, help="artefact trained on the data")
    parser.add_argument("--epochs", type=int, default=8, help="of training, without --model")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=2)
    parts = [*KINDS, "similar", "model"]
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, metavar="PART",
                        help=f"any of {', '.join(parts)}")  # fmt: skip
    options = parser.parse_args()
    if not options.data.exists():
        sys.exit(f"no data at {options.data}: give a folder with --data")
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    console = Console()
    interactions = load_interactions(options.data)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.model or trained(interactions, options.epochs, Path(scratch) / "model")
        kinds = [kind for kind in KINDS if kind in options.only]
        model = load_model(folder).model.folded()
        if "similar" in options.only:
            rows = model.output_table.detach().contiguous()
            console.print(similar_table(rows, options.items))
        if kinds:
            users = range(0, len(interactions.users), max(1, len(interactions.users) // 4000))
            with torch.no_grad():
                states = model.encode([interactions.of(user)[:-1] for user in users])
                table = model.output_table.detach().contiguous()
            console.print(search_table(kinds, table, states, options.items, options.threads))
        if "model" in options.only:
            console.print(model_table(folder, interactions))


if __name__ == "__main__":
    main()
