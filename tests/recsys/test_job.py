"""`recsys.job` as torchrun starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from recsys import job
from recsys.data.interactions import load_interactions

PROJECT = Path(__file__).resolve().parents[2]


def test_torchrun_trains_in_two_processes_and_one_of_them_tells(
    shop_folder: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.json"
    # Everything that can be learnt from parts, with an item table in parts.
    chosen = {"dimension": 8, "blocks": 1, "heads": 1, "epochs": 1, "length": 12, "negatives": 20}
    pretraining = {"pretrain_epochs": 1, "skip_gram": 1, "masked_text": 1}
    recipe.write_text(json.dumps(chosen | pretraining))
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "-m", "recsys.job", "--data", str(shop_folder), "--recipe", str(recipe),
         "--folder", str(tmp_path / "run"), "--shard-items"],
        cwd=PROJECT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *steps, last = map(json.loads, done.stdout.splitlines())
    assert [step["progress"][:2] for step in steps] == [[1, 2], [2, 2]]
    metrics = json.loads((tmp_path / "run/artifact/metrics.json").read_text())
    assert last["metrics"] == metrics and metrics["users"] == 300
    known = json.loads((tmp_path / "run/data.json").read_text())
    assert known["fingerprint"] == load_interactions(shop_folder).fingerprint()
    assert known["users"] == 300


@pytest.mark.parametrize(
    ("recipe", "code", "sentence"),
    [
        ("{", 2, "cannot be read"),
        ("[]", 2, "must hold one JSON object"),
        ('{"epoch": 3}', 2, "unknown key 'epoch'"),
        ("{}", 1, "another job trains in"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    recipe: str,
    code: int,
    sentence: str,
    shop_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "recipe.json").write_text(recipe)
    alone = {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "1"}
    # Port 0: the system chooses one.
    for name, value in (alone | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}).items():
        monkeypatch.setenv(name, value)
    arguments = ["--data", shop_folder, "--recipe", tmp_path / "recipe.json", "--folder", tmp_path]
    monkeypatch.setattr(sys, "argv", ["recsys.job", *map(str, arguments)])
    with FileLock(tmp_path / "job.lock"), pytest.raises(SystemExit) as end:
        job.main()
    assert end.value.code == code
    assert sentence in json.loads(capsys.readouterr().out)["error"]
