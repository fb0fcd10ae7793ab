"""kill -9 of every process of a federation in every phase of a round: is the result the same?

Each cell is a run of its own on the same servers. In the named phase of round 2 (or of the last
exchange) the named process is killed; whatever has ended is started again half a second later, as
a supervisor does. The sha256 of the resulting weights must be that of an undisturbed run. A cell
in which the process did not live in the phase, or the phase was over too soon to be seen, killed
nothing: it says so and counts apart::

    python -m benchmarks.kill_matrix [--process NAME] [--phase NAME] [--rounds 2]
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
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
from tests.federation.servers import Servers, children

PROCESSES = (
    "superlink", "server-executor", "serverapp", "supernode", "executor", "clientapp"
)  # fmt: skip
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
            if expected.startswith("FAILED"):
                sys.exit(f"The undisturbed run: {expected}")
            print(f"undisturbed: {expected[:12]} in {seconds:.0f} s", flush=True)
            same = killed = total = 0
            for process in chosen.process or PROCESSES:
                for phase in chosen.phase or PHASES:
                    run = folder / f"{process}-{phase}".replace(" ", "-")
                    found, seconds, victims = _cell(
                        servers, initial, run, chosen.rounds, process, phase
                    )
                    total += 1
                    killed += victims > 0
                    same += victims > 0 and found == expected
                    shown = found if found.startswith("FAILED") else found[:12]
                    note = "" if victims else "  nothing killed: not there in this phase"
                    print(f"{process:15} {phase:18} {shown:14} {seconds:4.0f} s{note}", flush=True)
        finally:
            servers.stop()
    print(f"{same} of {killed} cells that killed have the undisturbed run's sha256")
    print(f"{total - killed} of {total} cells killed nothing")
    sys.exit(not 0 < same == killed)


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
) -> tuple[str, float, int]:
    """A run in which one process is killed once; also how many processes that ended."""
    run.mkdir()
    over = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        victims = pool.submit(_kill, servers, run, rounds, process, phase, over)
        try:
            found, seconds = _run(servers, initial, run, rounds)
        finally:
            over.set()
        return found, seconds, victims.result()


def _kill(
    servers: Servers, run: Path, rounds: int, process: str, phase: str, over: threading.Event
) -> int:
    """Wait for the phase and kill the process if it lives in it; gives how many were killed."""
    while not _reached(servers, run, rounds, phase):
        if over.wait(0.002):
            return 0
    found = _living(servers, process)
    # Only the last phase goes on until the run is over; after any other comes another phase.
    while not found and phase == "last exchange" and not over.wait(0.002):
        found = _living(servers, process)
    killed = 0
    for victim in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
            killed += 1
    return killed


def _living(servers: Servers, process: str) -> list[int]:
    """Processes of this kind that live now. A ClientApp lives only while it has work."""
    if process == "serverapp":
        return children(servers.processes["server-executor"].pid, "serverapp")
    if process == "clientapp":
        return children(servers.processes["executor-north"].pid, "clientapp")
    there = {"supernode": "supernode-north", "executor": "executor-north"}
    named = servers.processes[there.get(process, process)]
    return [] if named.poll() is not None else [named.pid]


def _reached(servers: Servers, run: Path, rounds: int, phase: str) -> bool:
    log = run / "server.log"
    begun = log.exists() and f"round {ROUND} of" in log.read_text()
    if phase == "last exchange":
        saved = Checkpoint.load(run)
        return saved is not None and saved.number == rounds
    if not begun or phase == "before the message":
        return begun
    if phase == "training":
        return bool(children(servers.processes["executor-north"].pid, "clientapp"))
    if phase == "after a reply":
        identity = (run / "identity").read_text()
        state = servers.folder / "sites/north/runs" / identity
        return (state / f"{ROUND}.safetensors").exists()
    return any(run.glob(".checkpoint.safetensors.*"))


if __name__ == "__main__":
    main()
