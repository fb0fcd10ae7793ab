"""One change of an environment at a time, between real processes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cli.errors import CommandError
from cli.lock import environment_lock

HOLD = """
import sys
from pathlib import Path
from cli.lock import environment_lock
with environment_lock(Path(sys.argv[1]), "hybrid up"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "shop")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_second_is_told_who_holds_the_lock(holder, tmp_path):
    with pytest.raises(CommandError) as error, environment_lock(tmp_path / "shop", "hybrid down"):
        pass
    assert f"Environment shop is in use by `hybrid up`, process {holder.pid}" in str(error.value)


def test_a_killed_holder_holds_nothing(holder, tmp_path):
    holder.kill()
    holder.wait()
    with environment_lock(tmp_path / "shop", "hybrid down"):
        pass
