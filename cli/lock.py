"""One change of an environment at a time."""

from __future__ import annotations

import getpass
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from cli.errors import CommandError
from cli.files import write_text


@contextmanager
def environment_lock(folder: Path, command: str) -> Iterator[None]:
    """Hold the environment's lock; the kernel frees it when this process ends, however it ends.

    Raises
    ------
    CommandError
        Another command holds it: the sentence says which, since when and by whom.
    """
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "lock.json"
    try:
        with FileLock(folder / "lock", timeout=0):
            holder = {
                "command": command,
                "pid": os.getpid(),
                "user": getpass.getuser(),
                "since": time.strftime("%H:%M:%S"),
            }
            write_text(note, json.dumps(holder))
            try:
                yield
            finally:
                note.unlink(missing_ok=True)
    except Timeout:
        raise CommandError(f"Environment {folder.name} is in use{_holder(note)}.") from None


def _holder(note: Path) -> str:
    try:
        holder = json.loads(note.read_text())
    except (OSError, ValueError):
        return ""
    return (
        f" by `{holder['command']}`, process {holder['pid']} of {holder['user']}, "
        f"since {holder['since']}: wait for it to end"
    )
