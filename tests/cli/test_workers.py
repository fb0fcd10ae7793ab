"""What becomes of a job's lines and of its end."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from cli import workers
from cli.errors import CommandError

STAND_IN = """
import json, sys
print("a library says hello")
for line in json.loads(sys.argv[1]):
    print(json.dumps(line))
sys.exit(int(sys.argv[2]))
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Let a stand-in for torchrun print lines and end with a code."""

    def run(lines: list[dict], code: int) -> tuple[dict, list[tuple]]:
        start = workers.subprocess.Popen

        def popen(command: list[str], **options):
            assert command[1:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
            assert command[-2:] == ["--wandb", "shop"]
            stand_in = [sys.executable, "-c", STAND_IN, json.dumps(lines), str(code)]
            return start(stand_in, **options)

        monkeypatch.setattr(workers.subprocess, "Popen", popen)
        told: list[tuple] = []
        metrics = workers.train_together(
            tmp_path, {"seed": 1}, tmp_path, lambda *step: told.append(step),
            workers=2, shard_items=False, wandb_project="shop",
        )  # fmt: skip
        return metrics, told

    return run


def test_progress_and_metrics_are_passed_on(run, tmp_path):
    metrics, told = run([{"progress": [1, 2, "half"]}, {"metrics": {"NDCG@10": 0.5}}], 0)
    assert (metrics, told) == ({"NDCG@10": 0.5}, [(1, 2, "half")])
    assert json.loads((tmp_path / "recipe.json").read_text()) == {"seed": 1}


def test_the_jobs_own_sentence_is_the_error(run):
    with pytest.raises(CommandError, match="^no data there$"):
        run([{"error": "no data there"}, {"error": "connection closed"}], 1)


def test_a_process_that_just_ends_is_told_with_its_log(run, tmp_path):
    with pytest.raises(CommandError, match=r"one of 2 training processes ended.*workers\.log"):
        run([{"progress": [1, 2, "half"]}], 1)
