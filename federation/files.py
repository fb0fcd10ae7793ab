"""Files and folders that are there wholly or not at all, whenever the machine stops."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from federation.errors import FederationError


def write_private(path: Path, *pieces: bytes | memoryview) -> None:
    """Write a file of these pieces that only its owner may read (mode 0600)."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:  # mkstemp sets the mode
            stream.writelines(pieces)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


@contextlib.contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Say in a sentence what keeps a file or folder of a run from being written."""
    from safetensors import SafetensorError

    try:
        yield
    # The library has its own error for a full disk.
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise FederationError(
            f"{path} cannot be written ({why}): make room and call again, to go on after the last "
            "finished round."
        ) from error


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder to fill; it becomes `target` if the block succeeds."""
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        yield temporary
        os.replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
