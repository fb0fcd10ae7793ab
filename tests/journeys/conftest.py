"""An environment of a test's own: a home in a temporary folder, `local` on free ports."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from cli.processes import MARKER

PROJECT = Path(__file__).resolve().parents[2]
HYBRID = Path(sys.executable).parent / "hybrid"


@dataclass(frozen=True)
class User:
    """Somebody who types commands in the project's folder."""

    home: Path
    ports: dict

    @property
    def variables(self) -> dict[str, str]:
        return os.environ | {"HYBRID_HOME": str(self.home), "NO_COLOR": "1"}

    def runs(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run `hybrid` with these arguments; the exit code must be `code`."""
        done = subprocess.run(
            [HYBRID, *arguments], cwd=PROJECT, env=self.variables, stdin=subprocess.DEVNULL,
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == code, f"{arguments}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def asks(self, *arguments: str):
        """Run `hybrid … --json` and read what it prints."""
        return json.loads(self.runs(*arguments, "--json").stdout)

    def starts(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `hybrid` in a process group of its own, as a terminal does."""
        return subprocess.Popen(
            [HYBRID, *arguments], cwd=PROJECT, env=self.variables, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    def processes(self) -> list[psutil.Process]:
        """Everything that the environment's servers left running."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARKER) == str(self.home / "local"):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def open_ports(self) -> list[int]:
        """Those of the environment's ports that somebody answers on."""
        numbers = [p for p in self.ports.values() if isinstance(p, int)]
        numbers += [self.ports["supernode"] + 1, self.ports["gateway"] + 1]
        numbers += [*self.ports["torchserve"].values()]
        return [port for port in numbers if _is_open(port)]


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory):
    """A user with nothing yet; what is left at the end of the module is torn down."""
    home = tmp_path_factory.mktemp("home")
    settings = yaml.safe_load((PROJECT / "stacks" / "environments" / "local.yaml").read_text())
    base = _free_block(14)
    settings["ports"] = {
        "moto": base, "gcs": base + 1, "kubernetes": base + 2, "superlink": base + 3,
        "supernode": base + 4, "fleet": base + 8, "gateway": base + 9,
        "torchserve": {"inference": base + 6, "management": base + 7, "grpc": base + 11,
                       "public": base + 12, "metrics": base + 13},
    }  # fmt: skip
    (home / "environments").mkdir()
    (home / "environments" / "local.yaml").write_text(yaml.safe_dump(settings))
    user = User(home, settings["ports"])
    yield user
    if (home / "local").exists():
        user.runs("down", "--purge", "--yes")


def _free_block(size: int) -> int:
    """First of so many neighbouring ports that nobody uses now."""
    while True:
        base = random.randrange(20000, 31000)
        if not any(_is_taken(port) for port in range(base, base + size)):
            return base


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False


def _is_open(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
