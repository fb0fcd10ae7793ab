"""kill -9 of every process of a federation in every phase of a round: is the result the same?

Each cell is a run of its own on the same servers. In the named phase of round 2 (or of the last
exchange) the named process is killed; whatever has ended is started again half a second later, as
a supervisor does. The sha256 of the resulting weights must be that of an undisturbed run::

    python -m benchmarks.kill_matrix [--process NAME] [--phase NAME] [--rounds 2]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

from federation.checkpoint import Checkpoint
from federation.errors import FederationError
from federation.run import federate
from recsys.artifact import save_model
from recsys.data.interactions import Interactions, write_interactions
from recsys.model import SequentialRecommender
from recsys.recipe import Recipe
from tests.federation.servers import Servers, children, until

PROCESSES = ("superlink", "superexec", "serverapp", "supernode", "executor", "clientapp")
PHASES = ("before the message", "training", "after a reply", "checkpoint", "last exchange")
ITEMS = [f"item-{number}" for number in range(200)]
RECIPE = Recipe(dimension=32, blocks=1, heads=1, length=20, batch_tokens=512)
SITES = ("north", "south")
ROUND = 2


def main() -> None:
    """Print a line a cell and the count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--process", action="append", choices=PROCESSES)
    parser.add_argument("--phase", action="append", choices=PHASES)
    parser.add_argument("--rounds", type=int, default=2)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill-matrix-") as scratch:
        folder = Path(scratch)
        initial, data = _shop(folder)
        servers = Servers(folder / "flower", data)
        servers.folder.mkdir()
        try:
            servers.start_all()
            servers.supervise()
            expected, seconds = _run(servers, initial, folder / "whole", chosen.rounds)
            print(f"undisturbed: {expected[:12]} in {seconds:.0f} s", flush=True)
            same = total = 0
            for process in chosen.process or PROCESSES:
                for phase in chosen.phase or PHASES:
                    run = folder / f"{process}-{phase}".replace(" ", "-")
                    found, seconds = _cell(servers, initial, run, chosen.rounds, process, phase)
                    total += 1
                    same += found == expected
                    print(f"{process:10} {phase:18} {found[:12]:14} {seconds:4.0f} s", flush=True)
        finally:
            servers.stop()
    print(f"{same} of {total} cells have the undisturbed run's sha256")
    sys.exit(same != total)


def _shop(folder: Path) -> tuple[Path, dict[str, Path]]:
    """An untrained model and the data of two sites, of which the second takes longer to train."""
    data = {}
    for number, (site, users) in enumerate(zip(SITES, (300, 900), strict=True)):
        generator = np.random.default_rng(number)
        lengths = generator.integers(6, 20, users)
        sequence = np.concatenate(
            [np.cumsum(generator.integers(1, 4, n)) % len(ITEMS) for n in lengths]
        )
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        names = [f"{site}-{user}" for user in range(users)]
        interactions = Interactions(names, ITEMS, offsets, sequence.astype(np.int32))
        data[site] = folder / site
        write_interactions(interactions, data[site])
    torch.manual_seed(0)
    model = SequentialRecommender(len(ITEMS), RECIPE)
    return save_model(folder / "initial", model, RECIPE, ITEMS, {}), data


def _run(servers: Servers, initial: Path, run: Path, rounds: int) -> tuple[str, float]:
    """Hash of the result's weights, and seconds."""
    began = time.monotonic()
    try:
        result = federate(
            servers.folder, initial, run, address=servers.address, sites=SITES, rounds=rounds,
            local_epochs=3, seed=1, quorum=1.0, ask_again=60.0,
        )  # fmt: skip
        weights = (result.artifact / "weights.safetensors").read_bytes()
        found = hashlib.sha256(weights).hexdigest()
    except FederationError as error:
        found = f"FAILED: {error}"
    return found, time.monotonic() - began


def _cell(
    servers: Servers, initial: Path, run: Path, rounds: int, process: str, phase: str
) -> tuple[str, float]:
    """A run in which one process is killed once."""
    run.mkdir()
    killer = threading.Thread(target=_kill, args=(servers, run, rounds, process, phase))
    killer.start()
    found = _run(servers, initial, run, rounds)
    killer.join()
    return found


def _kill(servers: Servers, run: Path, rounds: int, process: str, phase: str) -> None:
    """Wait for the phase and kill the process."""
    until(lambda: _reached(servers, run, rounds, phase), phase, every=0.002)
    if process == "serverapp":
        parent, name = servers.processes["superexec"].pid, "flwr-serverapp"
    elif process == "clientapp":
        parent, name = servers.processes["executor-north"].pid, "client_executor"
    else:
        there = {"supernode": "supernode-north", "executor": "executor-north"}
        os.kill(servers.processes[there.get(process, process)].pid, signal.SIGKILL)
        return
    # A ClientApp lives only while it has something to do.
    for child in until(lambda: children(parent, name), f"a {process}", every=0.002):
        os.kill(child, signal.SIGKILL)


def _reached(servers: Servers, run: Path, rounds: int, phase: str) -> bool:
    log = run / "server.log"
    begun = log.exists() and f"round {ROUND} of" in log.read_text()
    if phase == "last exchange":
        saved = Checkpoint.load(run)
        return saved is not None and saved.number == rounds
    if not begun or phase == "before the message":
        return begun
    if phase == "training":
        return bool(children(servers.processes["executor-north"].pid, "client_executor"))
    if phase == "after a reply":
        identity = (run / "identity").read_text()
        state = servers.folder / "sites/north/runs" / identity
        return (state / f"{ROUND}.safetensors").exists()
    return any(run.glob(".checkpoint.safetensors.*"))


if __name__ == "__main__":
    main()
