"""Sites of an environment's federation: who takes part, and who no longer does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from cli.enrolment import ADDED, REMOVED, ROTATED, note_enrolment
from cli.environment import Environment
from cli.local import PROXY, LocalServers
from cli.nginx import reload_nginx
from cli.processes import Supervisor
from federation.enrolment import Enrolled, add_site, list_sites, remove_site, rotate_site
from federation.site_package import write_package

# The environment's own lock is held while a federation runs, and a site must be removable then.
LOCK_SECONDS = 60


def add(environment: Environment, site: str, package: Path, proxy: str | None) -> Path | None:
    """Enrol a site. One of the settings starts at once; for another a package is written.

    Parameters
    ----------
    package
        Where the package goes.
    proxy
        "host:port" at which the site finds the proxy; None for the proxy's own address.

    Returns
    -------
    Path or None
        The package, if there is one.
    """
    environment.require_local("hybrid site")
    servers = LocalServers(environment)
    with _locked(environment):
        add_site(environment.federation, site, address=servers.superlink_address)
        note_enrolment(environment, site, ADDED)
        return _hand_over(environment, site, package, proxy)


def rotate(environment: Environment, site: str, package: Path, proxy: str | None) -> Path | None:
    """Give a site new keys; the old ones open nothing from then on. As `add` for the rest."""
    environment.require_local("hybrid site")
    servers = LocalServers(environment)
    with _locked(environment):
        rotate_site(
            environment.federation,
            site,
            address=servers.superlink_address,
            reload=lambda: _reload(environment),
        )
        note_enrolment(environment, site, ROTATED)
        return _hand_over(environment, site, package, proxy)


def remove(environment: Environment, site: str) -> None:
    """Cut a site off and forget its keys; its data stay where they are."""
    environment.require_local("hybrid site")
    servers = LocalServers(environment)
    with _locked(environment):
        remove_site(
            environment.federation,
            site,
            address=servers.superlink_address,
            reload=lambda: _reload(environment),
        )
        environment.audit_log().append(REMOVED, site=site)
        if _is_own(environment, site):
            _restart(environment, site)


def overview(environment: Environment) -> list[Enrolled]:
    """Every site that there is or was."""
    environment.require_local("hybrid site")
    address = LocalServers(environment).superlink_address
    return list_sites(environment.federation, address=address)


def _hand_over(
    environment: Environment, site: str, package: Path, proxy: str | None
) -> Path | None:
    servers = LocalServers(environment)
    if _is_own(environment, site):
        _restart(environment, site)
        return None
    write_package(environment.federation, site, package, proxy=proxy or servers.proxy_address)
    return package


def _restart(environment: Environment, site: str) -> None:
    """End the processes of a site on this machine, which hold its old keys; start those it has."""
    supervisor, servers = Supervisor(environment.folder), LocalServers(environment)
    if not supervisor.alive():
        return
    supervisor.configure(servers.all)  # ends those that are no longer among them
    mine = {f"{site}-{part}" for part in ("gateway", "node", "apps")}
    supervisor.restart([part for part in servers.site_nodes if part.name in mine])
    supervisor.start(servers.site_nodes)


def _is_own(environment: Environment, site: str) -> bool:
    return site in {own.name for own in environment.settings.sites}


def _reload(environment: Environment) -> None:
    states = Supervisor(environment.folder).states()
    for state in states:
        if state.name == PROXY and state.state == "RUNNING":
            reload_nginx(state.pid, PROXY)


@contextmanager
def _locked(environment: Environment) -> Iterator[None]:
    environment.federation.mkdir(parents=True, exist_ok=True)
    with FileLock(environment.federation / "sites.lock", timeout=LOCK_SECONDS):
        yield
