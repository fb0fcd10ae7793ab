"""The nginx through which sites reach an environment's SuperLink on this machine."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import psutil
from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from cli.errors import CommandError
from cli.files import write_text
from federation.credentials import Credentials
from infra.fleet_proxy import FleetProxy, proxy_configuration

RELOAD_SECONDS = 30.0


def proxy_program() -> str | None:
    """nginx; None where there is none. Daemons live in sbin, which is not on everybody's PATH."""
    return shutil.which("nginx", path=os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"]))


def proxy_command(
    program: str, folder: Path, files: Credentials, *, host: str, port: int, superlink: int
) -> list[str]:
    """Write the proxy's configuration into `folder`; the command that runs it in the foreground."""
    configuration = proxy_configuration(
        FleetProxy(
            listen=f"{host}:{port}",
            superlink=superlink,
            folder=str(folder),
            certificate=str(files.server_certificate),
            key=str(files.server_key),
            trusted=str(files.authority),
            sites_authority=str(files.authority),
            revoked=str(files.revoked),
        )
    )
    write_text(folder / "nginx.conf", configuration, mode=0o600)
    return [program, "-c", str(folder / "nginx.conf"), "-g", "daemon off;", "-e", "stderr"]


def reload_proxy(pid: int) -> None:
    """Have the running proxy read its certificates and its revocation list again.

    It is done when this returns: each worker that knew the old list takes no further call, also on
    connections that are open; only a call that is under way may end.

    Raises
    ------
    CommandError
        The proxy still works by the old list.
    """
    master = psutil.Process(pid)
    old = master.children()
    master.send_signal(signal.SIGHUP)
    attempts = Retrying(
        retry=retry_if_result(lambda retired: not retired),
        wait=wait_fixed(0.02),
        stop=stop_after_delay(RELOAD_SECONDS),
    )
    try:
        attempts(lambda: all(_is_leaving(worker) for worker in old))
    except RetryError:
        raise CommandError(
            "The proxy of the SuperLink does not take the new list of revoked certificates: read "
            "hybrid logs fleet."
        ) from None


def _is_leaving(worker: psutil.Process) -> bool:
    try:
        if worker.status() == psutil.STATUS_ZOMBIE:
            return True
        return "shutting down" in " ".join(worker.cmdline())
    except psutil.NoSuchProcess:
        return True
