"""Training in several processes of this machine, started by torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from cli.application import PROJECT, Progress
from cli.errors import CommandError
from cli.files import write_text


def train_together(
    data: Path,
    recipe: dict[str, Any],
    folder: Path,
    progress: Progress,
    *,
    workers: int,
    shard_items: bool,
    wandb_project: str | None,
) -> dict[str, Any]:
    """Run `recsys.job` in `workers` processes; the artefact is then in ``folder/artifact``.

    Returns
    -------
    dict
        The test metrics.

    Raises
    ------
    CommandError
        The job says what it cannot do, or one of its processes ended.
    """
    write_text(folder / "recipe.json", json.dumps(recipe))
    log = folder / "workers.log"
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(workers), "-m", "recsys.job"),
        *("--data", str(data), "--recipe", str(folder / "recipe.json"), "--folder", str(folder)),
        *(["--shard-items"] if shard_items else []),
        *(["--wandb", wandb_project] if wandb_project else []),
    ]
    path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    variables = {"OMP_NUM_THREADS": threads} | os.environ | {"PYTHONPATH": path}
    last: dict[str, Any] = {}
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=variables
        ) as process,
    ):
        try:
            for line in process.stdout:
                message = _message(line)
                if "progress" in message:
                    progress(*message["progress"])
                last = message if "error" not in last and message else last
        except BaseException:
            process.terminate()  # torchrun ends its processes
            raise
    if process.returncode != 0:
        raise CommandError(
            last.get("error")
            or f"one of {workers} training processes ended (exit code {process.returncode}): "
            f"see {log}; the same command goes on from the last checkpoint."
        )
    return last["metrics"]


def _message(line: str) -> dict[str, Any]:
    """A line of the job; other lines on its standard output are a library's."""
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}
