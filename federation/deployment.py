"""What to run for a federation: each long-lived process as an argv and an environment.

============================  ======================================================
process                       job
============================  ======================================================
SuperLink                     keeps runs, messages and enrolled keys; TLS on one port
server executor               runs a ServerApp process for every submitted run
SuperNode (one per site)      fetches the site's messages from the SuperLink
client executor (per site)    runs a ClientApp process for every message
gateway (per site)            carries the SuperNode's calls to the proxy before the
                              SuperLink, with the site's certificate
============================  ======================================================

Apps run outside the SuperLink and the SuperNodes (Flower's process isolation), so a ServerApp
lives through a crash of the SuperLink. A SuperLink keeps its state in a database file; started
again on the same folder, it goes on with the same runs and the same enrolled sites. Every process
stays in the foreground and ends on SIGTERM together with the app processes that it started.

The order matters: SuperLink, :func:`enrol`, SuperNodes. A SuperNode that is not enrolled is
refused and exits; the others wait for a SuperLink that is not there yet.

Layout under the given folder::

    credentials/        see federation.credentials
    superlink/          state.db and the Flower home of the SuperLink and the server executor
    sites/<site>/       Flower home of the site's SuperNode and client executor
    sites/<site>/runs/  what the site keeps between rounds, see federation.site_state
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import Iterable
from pathlib import Path

import federation
from federation import credentials as _credentials
from federation.control import ControlClient, Site
from federation.errors import FederationError

Command = tuple[list[str], dict[str, str]]
"""An argv, and the variables to set on top of the inherited environment."""

LOOPBACK = "127.0.0.1"


def superlink_command(folder: Path, *, port: int, host: str = LOOPBACK) -> Command:
    """Command of the SuperLink, listening with TLS on `host`:`port` for everything."""
    files = _files(folder)
    state = _home(folder, "superlink") / "state.db"
    argv = [
        *(sys.executable, "-m", "federation.superlink"),
        *("--host", host, "--port", str(port)),
        *("--ssl-ca-certfile", str(files.authority)),
        *("--ssl-certfile", str(files.server_certificate)),
        *("--ssl-keyfile", str(files.server_key)),
        "--enable-supernode-auth",
        *("--database", str(state)),
        *("--isolation", "process"),
        *("--superexec-auth-secret-file", str(files.superexec_secret)),
        "--disable-runtime-dependency-installation",
    ]
    return argv, _environment(state.parent)


def server_executor_command(folder: Path, *, port: int) -> Command:
    """Command of the process that runs ServerApps for the SuperLink on this machine's `port`."""
    files = _files(folder)
    argv = [
        *(sys.executable, "-m", "federation.executor", "serverapp"),
        *("--runtime-api-address", f"{LOOPBACK}:{port}"),
        *("--root-certificates", str(files.authority)),
        *("--superexec-auth-secret-file", str(files.superexec_secret)),
    ]
    return argv, _environment(_home(folder, "superlink"))


def supernode_command(
    folder: Path,
    site: str,
    *,
    data: Path,
    superlink: str,
    runtime_port: int,
    gateway: bool = False,
) -> Command:
    """Command of a site's SuperNode.

    Parameters
    ----------
    folder : Path
        The federation's folder; a remote site needs only ``credentials/ca.crt`` and its own
        ``credentials/sites/<site>`` of it.
    site : str
        Name under which the site was enrolled.
    data : Path
        The site's interactions, the only data that its ClientApps read.
    superlink : str
        "host:port" of the SuperLink, or of the site's gateway.
    runtime_port : int
        Loopback port on which the site's client executor reaches the SuperNode.
    gateway : bool
        Whether `superlink` is the gateway, which has a certificate of its own.
    """
    files = _files(folder, site)
    authority = files.sites[site].gateway_certificate if gateway else files.authority
    data = Path(data).absolute()
    state = _home(folder, "sites", site) / "runs"
    for path in (data, state):
        if set(str(path)) & set("'\n"):
            raise FederationError(f"Folder {path} has a quote or a line break: rename it.")
    argv = [
        *(sys.executable, "-m", "federation.supernode"),
        *("--superlink", superlink),
        *("--root-certificates", str(authority)),
        *("--private-key", str(files.sites[site].private_key)),
        *("--node-config", f"site='{site}' data='{data}' state='{state}'"),
        *("--superexec-auth-secret-file", str(files.sites[site].superexec_secret)),
        *("--host", LOOPBACK, "--port", str(runtime_port)),
    ]
    return argv, _environment(_home(folder, "sites", site))


def gateway_command(folder: Path, site: str, *, port: int, proxy: str) -> Command:
    """Command of a site's gateway on the loopback's `port`, to the proxy at "host:port"."""
    argv = [
        *(sys.executable, "-m", "federation.gateway"),
        *("--credentials", str(credentials_folder(folder))),
        *("--site", site, "--port", str(port), "--proxy", proxy),
    ]
    return argv, _environment(_home(folder, "sites", site))


def client_executor_command(
    folder: Path, site: str, *, runtime_port: int, threads: int | None = None
) -> Command:
    """Command of the process that runs a site's ClientApps for its SuperNode.

    The two talk over the loopback of the site's own machine, hence without TLS; the shared
    secret keeps other local users from taking tasks.

    Parameters
    ----------
    folder, site, runtime_port
        As for :func:`supernode_command`.
    threads : int, optional
        Threads for training, by default one a core. Sites that share a machine should share its
        cores: with more threads than cores, training takes many times as long.
    """
    files = _files(folder, site)
    argv = [
        *(sys.executable, "-m", "federation.executor", "clientapp"),
        *("--runtime-api-address", f"{LOOPBACK}:{runtime_port}"),
        *("--superexec-auth-secret-file", str(files.sites[site].superexec_secret)),
    ]
    environment = _environment(_home(folder, "sites", site))
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    return argv, environment


def credentials_folder(folder: Path) -> Path:
    """Where a federation under `folder` keeps its credentials."""
    return Path(folder).absolute() / "credentials"


def enrol(folder: Path, sites: Iterable[str], *, address: str) -> dict[str, Site]:
    """Issue missing credentials of `sites` and let them join the SuperLink at `address`.

    Safe to repeat. See :meth:`federation.control.ControlClient.enrol`.
    """
    files = _credentials.issue(credentials_folder(folder), sites)
    with ControlClient(address, files.authority) as control:
        return control.enrol(files)


def sites(folder: Path, *, address: str) -> dict[str, Site]:
    """List the enrolled sites of the SuperLink at `address`, with their status."""
    with ControlClient(address, _files(folder).authority) as control:
        return control.sites()


def superlink_ready(folder: Path, *, address: str, timeout: float = 2.0) -> bool:
    """Tell whether a SuperLink with this federation's certificate answers at `address`.

    Cheap (no Flower import), so that it can be asked in a loop and for a status display.
    """
    import http.client

    host, _, port = address.rpartition(":")
    authority = _files(folder).authority
    if not authority.exists():
        return False
    context = ssl.create_default_context(cafile=str(authority))
    connection = http.client.HTTPSConnection(host, int(port), timeout=timeout, context=context)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _files(folder: Path, *sites: str) -> _credentials.Credentials:
    return _credentials.locate(credentials_folder(folder), sites)


def _home(folder: Path, *parts: str) -> Path:
    home = Path(folder).absolute().joinpath(*parts)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    return home


def _environment(home: Path) -> dict[str, str]:
    """Variables for a Flower process: its own home, no calls home, and our packages in reach.

    They are the same from whatever shell they are asked for: a supervisor restarts a process whose
    environment has changed.
    """
    return {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PYTHONPATH": str(Path(federation.__file__).resolve().parents[1]),
    }
