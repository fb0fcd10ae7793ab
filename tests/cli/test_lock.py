"""One change of an environment at a time, between real processes."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import pytest

from cli.errors import CommandError
from cli.files import write_text
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
    assert f"Environment shop is in use (`hybrid up`, process {holder.pid} of" in str(error.value)
    assert f"on {socket.gethostname()}, since " in str(error.value)


def test_the_lock_of_a_dead_owner_is_broken_and_said_so(holder, tmp_path, capsys):
    holder.kill()
    holder.wait()
    with environment_lock(tmp_path / "shop", "hybrid down"):
        pass
    told = f"The lock of shop is broken: its owner is dead (`hybrid up`, process {holder.pid} of"
    assert capsys.readouterr().err.startswith(told)
    with environment_lock(tmp_path / "shop", "hybrid down"):
        pass
    assert capsys.readouterr().err == ""


def test_an_owner_on_another_host_is_named_and_left_alone(tmp_path):
    """A shared folder: this kernel knows nothing of that host's locks."""
    note = tmp_path / "shop" / "lock.json"
    owner = {"command": "hybrid up", "pid": 7, "user": "eve", "host": "far", "since": "10:00:00"}
    write_text(note, json.dumps(owner))
    with pytest.raises(CommandError) as error, environment_lock(tmp_path / "shop", "hybrid down"):
        pass
    assert "process 7 of eve on far, since 10:00:00" in str(error.value)
    assert f"delete {note}" in str(error.value) and note.exists()
