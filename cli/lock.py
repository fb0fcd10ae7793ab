"""One change of an environment at a time."""

from __future__ import annotations

import getpass
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from filelock import FileLock, Timeout

from cli.errors import CommandError
from cli.files import write_text


class InUse(CommandError):
    """Another command holds the environment."""


@contextmanager
def environment_lock(folder: Path, command: str) -> Iterator[None]:
    """Hold the environment's lock; the kernel frees it when this process ends, however it ends.

    A note that a dead owner left behind is told on standard error, and the lock taken.

    Raises
    ------
    InUse
        Another command holds it: the sentence says which, where, since when and by whom.
    """
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "lock.json"
    try:
        with FileLock(folder / "lock", timeout=0):
            _settle_with_earlier(note, folder.name)
            holder = {
                "command": command,
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "user": getpass.getuser(),
                "since": time.strftime("%H:%M:%S"),
            }
            write_text(note, json.dumps(holder))
            try:
                yield
            finally:
                note.unlink(missing_ok=True)
    except Timeout:
        raise InUse(
            f"Environment {folder.name} is in use{_told(_read(note))}: wait for it to end."
        ) from None


def _settle_with_earlier(note: Path, environment: str) -> None:
    """The kernel gave the lock: the owner of a note is dead, or on a host it does not speak for."""
    owner = _read(note)
    if not owner:
        return
    if owner["host"] != socket.gethostname():
        raise InUse(
            f"Environment {environment} is in use{_told(owner)}. If that host is gone, delete {note}."
        )
    click.echo(f"The lock of {environment} is broken: its owner is dead{_told(owner)}.", err=True)


def _read(note: Path) -> dict[str, Any]:
    try:
        owner = json.loads(note.read_text())
    except (OSError, ValueError):
        return {}
    return {"host": socket.gethostname()} | owner


def _told(owner: dict[str, Any]) -> str:
    if not owner:
        return ""
    return (
        f" (`{owner['command']}`, process {owner['pid']} of {owner['user']} on {owner['host']}, "
        f"since {owner['since']})"
    )
