"""What the folders of federated runs tell of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from federation.checkpoint import exclusive
from federation.errors import FederationError
from federation.history import find_run, past_runs


def make(folder: Path, name: str, started: int, rounds: int = 0) -> Path:
    run = folder / name
    run.mkdir()
    (run / "settings.json").write_text(json.dumps({"rounds": 3, "sites": ["north"]}))
    os.utime(run / "settings.json", (started, started))
    records = [{"round": number} for number in range(rounds + 1)]
    (run / "rounds.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return run


def test_runs_are_listed_newest_first_with_their_state(tmp_path: Path) -> None:
    make(tmp_path, "federate-old", 1, rounds=3).joinpath("artifact").mkdir()
    make(tmp_path, "federate-cut", 2, rounds=1)
    going = make(tmp_path, "federate-new", 3)
    (tmp_path / "train-1").mkdir()  # runs of hybrid train lie there too
    with exclusive(going):
        found = past_runs(tmp_path)
    assert [(run.name, run.state, len(run.rounds)) for run in found] == [
        ("federate-new", "running", 0),
        ("federate-cut", "interrupted", 1),
        ("federate-old", "finished", 3),
    ]
    # The lock's file stays behind when its holder dies; the kernel has freed it.
    assert find_run(tmp_path, None).state == "interrupted"


def test_a_run_is_found_by_a_name_that_can_mean_no_other(tmp_path: Path) -> None:
    make(tmp_path, "federate-abc1", 1)
    make(tmp_path, "federate-abd2", 2)
    assert find_run(tmp_path, "federate-abc1").name == "federate-abc1"
    assert find_run(tmp_path, "abd").name == "federate-abd2"
    with pytest.raises(FederationError, match="'ab' is not one of the runs: name one of"):
        find_run(tmp_path, "ab")
    with pytest.raises(FederationError, match="'x' is none of the runs: .*abd2"):
        find_run(tmp_path, "x")


def test_no_runs_and_damaged_runs_are_told_in_a_sentence(tmp_path: Path) -> None:
    assert past_runs(tmp_path / "nothing") == []
    with pytest.raises(FederationError, match="no federated run yet"):
        find_run(tmp_path, None)
    run = make(tmp_path, "federate-1", 1)
    for name in ("settings.json", "rounds.jsonl"):
        kept = (run / name).read_text()
        (run / name).write_text("[")
        with pytest.raises(FederationError, match=f"{run} is damaged"):
            past_runs(tmp_path)
        (run / name).write_text(kept)
