"""The nginx in front of an environment's TorchServe on this machine."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cli.environment import Environment
from cli.errors import CommandError, ServingError
from cli.files import write_text
from cli.nginx import nginx_command, reload_nginx
from cli.processes import Supervisor
from infra.serving_proxy import (
    FINGERPRINT_PATH,
    LEAVING,
    SecondVersion,
    ServingProxy,
    fingerprint,
    serving_configuration,
)

if TYPE_CHECKING:
    import psutil

PART = "serving"
LOOPBACK = "127.0.0.1"
# So long before a reload each answer ends its connection; a client that asks less often sends hardly
# ever in the very moment of the reload.
LEAVE_SECONDS = 0.25


def serving_proxy(environment: Environment, second: SecondVersion | None) -> ServingProxy:
    """What the environment's proxy shall do."""
    ports, limits = environment.settings.ports.torchserve, environment.settings.limits
    return ServingProxy(
        listen=f"{LOOPBACK}:{ports.public}",
        torchserve=ports.inference,
        folder=str(_folder(environment)),
        requests_per_second=limits.requests_per_second,
        burst=limits.burst,
        request_bytes=limits.request_bytes,
        client_header=limits.client_header,
        second=second,
    )


def serving_proxy_command(program: str, environment: Environment, proxy: ServingProxy) -> list[str]:
    """Write the configuration; the command that runs nginx by it in the foreground."""
    return nginx_command(program, _write(environment, proxy))


def apply(environment: Environment, proxy: ServingProxy, pid: int) -> list[psutil.Process]:
    """Have the running nginx, process `pid`, work by a configuration, if it does not yet.

    Returns
    -------
    list
        The old workers, which end with their last call.

    Raises
    ------
    CommandError
        It works by another one still.
    ServingError
        Its main process was killed, and its workers go on by another one whoever is told.
    """
    require_main_process(environment)
    _write(environment, proxy)
    wanted = fingerprint(proxy)
    if loaded(environment) == wanted:
        return []
    leaving = working_folder(environment) / LEAVING
    leaving.touch()
    try:
        time.sleep(LEAVE_SECONDS)
        old = reload_nginx(pid, PART)
    finally:
        leaving.unlink(missing_ok=True)
    if loaded(environment) != wanted:
        raise CommandError(f"The proxy refuses its new configuration: read hybrid logs {PART}.")
    return old


def require_main_process(environment: Environment) -> None:
    """Refuse to change what users are served by workers that nobody can tell.

    Raises
    ------
    ServingError
        The proxy's main process was killed; supervisord may be about to start another.
    """
    if _is_orphaned(environment):
        raise ServingError(
            "The main process of the proxy was killed, and its workers serve on as they did: "
            "hybrid up, then the same command again."
        )


def loaded(environment: Environment) -> str | None:
    """Fingerprint of the configuration that nginx works by.

    None where none answers, or only workers that have lost their main process.
    """
    import httpx

    if _is_orphaned(environment):
        return None

    url = f"http://{LOOPBACK}:{environment.settings.ports.torchserve.public}{FINGERPRINT_PATH}"
    try:
        answer = httpx.get(url, timeout=2, trust_env=False)
    except httpx.HTTPError:
        return None
    return answer.text if answer.is_success else None


def working_folder(environment: Environment) -> Path:
    """Of nginx, whose workers look for `LEAVING` there; the folders above may be closed to them."""
    return _folder(environment) / "working"


def _is_orphaned(environment: Environment) -> bool:
    """Whether users are answered by workers that nobody can tell anything any more."""
    import psutil

    folder = working_folder(environment)
    for process in Supervisor(environment.folder).strays():
        with suppress(psutil.Error):  # it has just ended
            if Path(process.cwd()) == folder:
                return True
    return False


def _write(environment: Environment, proxy: ServingProxy) -> Path:
    file = _folder(environment) / "nginx.conf"
    write_text(file, serving_configuration(proxy), mode=0o600)
    working_folder(environment).mkdir(exist_ok=True)
    working_folder(environment).chmod(0o711)
    # A command that was killed may have left it.
    (working_folder(environment) / LEAVING).unlink(missing_ok=True)
    return file


def _folder(environment: Environment) -> Path:
    return environment.folder / "serving"
