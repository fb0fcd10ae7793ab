"""Files that are whole or absent, and a place for sockets whose paths must be short."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from cli.errors import CommandError


def write_text(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Replace a file by `text` in one step; nobody sees half of it.

    Raises
    ------
    CommandError
        If it cannot be written, as on a full disk; what was there stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, text, mode)
    except OSError as error:
        raise CommandError(
            f"{path} cannot be written ({error.strerror}): make room, or write elsewhere."
        ) from error


def _replace(path: Path, text: str, mode: int) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def short_path(folder: Path, prefix: str) -> Path:
    """A path in `socket_folder` that stands for a folder whose own path may be too long."""
    name = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    return socket_folder() / f"{prefix}-{name}"


def socket_folder(parent: str | None = None) -> Path:
    """A folder of ours alone for Unix sockets, whose paths have at most 107 bytes.

    Parameters
    ----------
    parent
        Where it is made; the system's folder for temporary files by default.

    Raises
    ------
    CommandError
        Somebody else owns it or may read it.
    """
    mine = Path(parent or tempfile.gettempdir()) / f"hybrid-{os.getuid()}"
    mine.mkdir(mode=0o700, exist_ok=True)
    if mine.is_symlink() or mine.stat().st_uid != os.getuid() or mine.stat().st_mode & 0o077:
        raise CommandError(f"{mine} must be a folder of yours with mode 0700: remove it.")
    return mine
