"""Time and memory of a round as sites grow, on Flower's own simulation engine.

    python -m benchmarks.federation_scale [--sites 10 100 1000] [--rounds 4] [--plot FILE.svg]

Needs Ray, which Flower simulates with, and for ``--plot`` Matplotlib: nothing else uses them, so
they are no dependencies (``.venv/bin/python -m pip install 'flwr[simulation]' matplotlib``). Each
site has 20 users of its own of the synthetic shop and trains a small model on them, with the
server's and the sites' own code; the engine runs as many sites at a time as there are processors.
Each number of sites runs in a process of its own; memory is the largest sum over it and Ray's
processes. The first round waits for Ray and for its processes to import PyTorch, so it is told
apart: a round takes the median of those after it. Few sites are asked at a time: before each
message the engine looks at every one that is stored, which took minutes with a thousand.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

USERS, ITEMS = 20, 200
# The engine looks at every message that is stored before it gives one out: few keep it quick, and
# more than there are processors keep these busy.
AT_ONCE = 16
HOUR = 3600.0


def simulate(count: int, rounds: int, folder: Path) -> dict[str, float]:
    """Run the rounds with so many sites; seconds of the first and of a later one, and most MiB."""
    import torch
    from flwr.simulation import run_simulation

    from federation import server_app
    from federation.checkpoint import read_records
    from federation.run import prepare
    from federation.settings import RunSettings
    from recsys.artifact import save_model
    from recsys.data.interactions import load_interactions, write_interactions
    from recsys.data.synthetic import write_shop
    from recsys.model import SequentialRecommender
    from recsys.recipe import Recipe

    shop = folder / "shop"
    write_shop(shop, users=USERS * count, items=ITEMS)
    interactions = load_interactions(shop)
    recipe = Recipe(dimension=16, heads=1, length=20, text_buckets=0)
    for number in range(count):
        own = interactions.select(range(number * USERS, (number + 1) * USERS))
        write_interactions(own, folder / "data" / f"site-{number}")
    torch.manual_seed(0)
    model = SequentialRecommender(len(interactions.items), recipe)
    initial = save_model(folder / "initial", model, recipe, interactions.items, {})
    sites = tuple(f"site-{number}" for number in range(count))
    # Sites wait for their turn on a few processors: silence is no sign of loss here.
    settings = RunSettings(
        folder=folder / "run", sites=sites, rounds=rounds, round_timeout=HOUR, ask_again=HOUR,
        at_once=AT_ONCE,
    )  # fmt: skip
    prepare(settings, initial)
    client, server = ClientApp(), ServerApp()

    def answer(message: Message, context: Context) -> Message:
        from federation import client_app

        site = json.loads((folder / "nodes.json").read_text())[str(context.node_id)]
        context.node_config |= {
            "site": site,
            "data": str(folder / "data" / site),
            "state": str(folder / "states" / site),
        }
        return client_app.app(message, context)

    client.train()(answer)
    client.evaluate()(answer)

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        context.run_config = settings.to_config()
        while len(nodes := sorted(grid.get_node_ids())) < count:
            time.sleep(0.1)
        names = dict(zip(map(str, nodes), sites, strict=True))
        (folder / "nodes.json").write_text(json.dumps(names))
        server_app.main(_Named(grid, names), context)

    with _Memory() as memory:
        run_simulation(server, client, count, backend_config={"client_resources": {"num_cpus": 1}})
    first, *later = (record["seconds"] for record in read_records(settings.folder)[1:])
    return {"first": first, "seconds": statistics.median(later), "mib": memory.most / 2**20}


class _Named:
    """The engine's Grid, in which nodes have the names of sites: it gives them none."""

    def __init__(self, grid: Grid, names: dict[str, str]) -> None:
        self._names = names
        self.push_messages, self.pull_messages = grid.push_messages, grid.pull_messages

    def get_nodes(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(node_id=int(node), name=name) for node, name in self._names.items()]


class _Memory(threading.Thread):
    """Most memory that this process and its children held at a time, in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0
        self._over = threading.Event()

    def __enter__(self) -> _Memory:
        self.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        own = psutil.Process()
        while not self._over.wait(0.5):
            held = 0
            for process in (own, *own.children(recursive=True)):
                try:
                    held += process.memory_full_info().uss
                except psutil.Error:
                    continue
            self.most = max(self.most, held)


def plot(figures: dict[int, dict[str, float]], file: Path) -> None:
    """Seconds a round and memory against sites, as an SVG."""
    import matplotlib
    from matplotlib.figure import Figure

    counts = sorted(figures)
    figure = Figure(figsize=(8, 3), layout="constrained")
    names = {"seconds": "seconds a round", "mib": "memory, MiB"}
    for axes, (key, name) in zip(figure.subplots(1, 2), names.items(), strict=True):
        axes.plot(counts, [figures[count][key] for count in counts], "o-")
        axes.set(xlabel="sites", ylabel=name, xlim=(0, None), ylim=(0, None))
        axes.grid(alpha=0.3)
    # Without a date and with names made from a fixed word: the same figures give the same file.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "hybrid"}):
        figure.savefig(file, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sites", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--rounds", type=int, default=4, help="two or more")
    parser.add_argument("--plot", type=Path, help="SVG to write")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds must be 2 or more: the first is told apart.")
    if importlib.util.find_spec("ray") is None:
        sys.exit("Flower simulates with Ray: install 'flwr[simulation]' with pip first.")
    if options.one:
        with tempfile.TemporaryDirectory() as scratch:
            print(json.dumps(simulate(options.one, options.rounds, Path(scratch))))
        return
    figures = {}
    for count in options.sites:
        command = [sys.executable, "-m", "benchmarks.federation_scale", "--one", str(count)]
        began = time.monotonic()
        done = subprocess.run(
            [*command, "--rounds", str(options.rounds)], stdout=subprocess.PIPE, check=True
        )
        figure = figures[count] = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{count} sites: {figure['seconds']:.1f} s a round (the first {figure['first']:.1f}), "
            f"{figure['mib']:.0f} MiB, {time.monotonic() - began:.0f} s in all",
            flush=True,
        )
    if options.plot:
        plot(figures, options.plot)


if __name__ == "__main__":
    main()
