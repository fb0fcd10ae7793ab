"""nginx on this machine: where it is, how it is started, how it takes another configuration."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from cli.errors import CommandError

if TYPE_CHECKING:
    import psutil

RELOAD_SECONDS = 30.0


def nginx_program() -> str | None:
    """nginx; None where there is none. Daemons live in sbin, which is not on everybody's PATH."""
    return shutil.which("nginx", path=os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"]))


def nginx_command(program: str, configuration: Path) -> list[str]:
    """The command that runs it in the foreground."""
    return [program, "-c", str(configuration), "-g", "daemon off;", "-e", "stderr"]


def reload_nginx(pid: int, part: str) -> list[psutil.Process]:
    """Have a running nginx read its configuration again, and the files that it names.

    It is done when this returns: each worker that knew the old one takes no further call, also on
    connections that are open; only a call that is under way may end.

    Parameters
    ----------
    pid
        Its main process.
    part
        The server's name for `hybrid logs`.

    Returns
    -------
    list
        The old workers, which end with their last call.

    Raises
    ------
    CommandError
        It still works by the old configuration.
    """
    import psutil

    master = psutil.Process(pid)
    old = master.children()
    master.send_signal(signal.SIGHUP)
    if not _becomes_true(lambda: all(_is_leaving(worker) for worker in old), RELOAD_SECONDS):
        raise CommandError(
            f"The proxy does not take its new configuration: read hybrid logs {part}."
        )
    return old


def _becomes_true(condition, seconds: float) -> bool:
    from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

    attempts = Retrying(
        retry=retry_if_result(lambda met: not met),
        wait=wait_fixed(0.02),
        stop=stop_after_delay(seconds),
    )
    try:
        return attempts(condition)
    except RetryError:
        return False


def _is_leaving(worker: psutil.Process) -> bool:
    import psutil

    try:
        if worker.status() == psutil.STATUS_ZOMBIE:
            return True
        return "shutting down" in " ".join(worker.cmdline())
    except psutil.NoSuchProcess:
        return True
