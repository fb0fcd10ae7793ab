"""Commands on other machines by SSH, each known by its host key."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from typing import IO, Protocol

from cli.errors import CommandError


class Reachable(Protocol):
    """A machine of the settings."""

    address: str
    host_key: str
    port: int
    user: str


def as_root_by_ssh(
    host: Reachable, command: Sequence[str], given: str | IO[bytes]
) -> subprocess.CompletedProcess[str]:
    """Run a command as root on a machine, whose host key must be the one in the settings.

    Parameters
    ----------
    host
        A machine with a user who is root, or may use sudo unasked; the running SSH agent has a key.
    command
        Program and arguments; they reach it as they are.
    given
        What it reads from standard input: a text, or an open file.

    Raises
    ------
    CommandError
        There is no ssh.
    """
    with tempfile.NamedTemporaryFile("w", prefix="hybrid-host-key-") as known:
        name = f"[{host.address}]:{host.port}" if host.port != 22 else host.address
        known.write(f"{name} {host.host_key}\n")
        known.flush()
        remote = command if host.user == "root" else ["sudo", "-n", *command]
        options = ("BatchMode=yes", "StrictHostKeyChecking=yes", "ConnectTimeout=10",
                   f"UserKnownHostsFile={known.name}")  # fmt: skip
        flags = [flag for option in options for flag in ("-o", option)]
        target = ["-p", str(host.port), f"{host.user}@{host.address}"]
        source = {"input": given} if isinstance(given, str) else {"stdin": given}
        try:
            return subprocess.run(
                ["ssh", *flags, *target, shlex.join(remote)],
                capture_output=True,
                text=True,
                **source,
            )
        except FileNotFoundError:
            raise CommandError("There is no ssh on this machine: install it.") from None


def why(done: subprocess.CompletedProcess[str]) -> str:
    """What a command that failed said, or its exit code."""
    return done.stderr.strip() or f"exit code {done.returncode}"
