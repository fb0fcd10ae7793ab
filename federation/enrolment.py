"""Who takes part: sites are enrolled, given new keys, removed and listed.

A site passes two checks on every call: the proxy's, of its client certificate against the
authority and the revocation list, and the SuperLink's, of its node key against the enrolled ones.
Removal and rotation act on both, and are done when they return: the SuperLink looks each call's
key up, and `reload` has the proxy read the list again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from federation.certificates import read_certificate
from federation.control import ControlClient, Site, SuperLinkUnreachable
from federation.credentials import issue, locate, revoke
from federation.deployment import credentials_folder
from federation.errors import FederationError

Reload = Callable[[], None]


@dataclass(frozen=True)
class Enrolled:
    """What is known of a site.

    Attributes
    ----------
    name : str
    status : str
        "online", "offline", "registered" (never seen), "removed", or "unknown" where the
        SuperLink does not answer.
    certificate_ends : str
        When its client certificate runs out, in ISO 8601; empty for a removed site.
    seen : str
        See :class:`federation.control.Site`.
    """

    name: str
    status: str
    certificate_ends: str
    seen: str


def add_site(folder: Path, site: str, *, address: str) -> dict[str, str]:
    """Issue a site's keys and certificate and let it join the SuperLink at `address`.

    Returns
    -------
    dict of str to str
        What the audit log keeps: serial number of the certificate, digest of the node key.

    Raises
    ------
    FederationError
        If there is such a site, its name is not usable, or the SuperLink does not answer.
    """
    credentials = credentials_folder(folder)
    register = locate(credentials).register
    # A site that is in the register but not at the SuperLink was added half: this completes it.
    with ControlClient(address, locate(credentials).authority) as control:
        if site in register.sites() and site in control.sites():
            raise FederationError(
                f"There is a site {site!r} already: hybrid site rotate gives it new keys."
            )
        control.enrol(issue(credentials, [site]))
    return identity(folder, site)


def rotate_site(folder: Path, site: str, *, address: str, reload: Reload) -> dict[str, str]:
    """Give a site new keys and cut its old ones off; what `add_site` returns.

    Raises
    ------
    FederationError
        If there is no such site, or the SuperLink does not answer.
    """
    _require(folder, site)
    credentials = credentials_folder(folder)
    with ControlClient(address, locate(credentials).authority) as control:
        control.remove(site)
        revoke(credentials, site)
        files = issue(credentials, [site])
        reload()
        control.enrol(files)
    return identity(folder, site)


def remove_site(folder: Path, site: str, *, address: str, reload: Reload) -> None:
    """Refuse a site's calls from now on, and delete its keys here.

    The list is written first: whatever fails afterwards, a repetition completes it.

    Raises
    ------
    FederationError
        If there is no such site, or the SuperLink does not answer.
    """
    _require(folder, site, removed=True)
    credentials = revoke(credentials_folder(folder), site)
    reload()
    with ControlClient(address, credentials.authority) as control:
        control.remove(site)


def list_sites(folder: Path, *, address: str) -> list[Enrolled]:
    """Every site that there is or was, sorted by name; the SuperLink need not run."""
    credentials = credentials_folder(folder)
    files = locate(credentials)
    names = files.register.sites()
    try:
        with ControlClient(address, files.authority) as control:
            known: dict[str, Site] | None = control.sites()
    except SuperLinkUnreachable:
        known = None
    found = []
    for name in names:
        certificate = read_certificate(locate(credentials, [name]).sites[name].client_certificate)
        ends = certificate.not_valid_after_utc.isoformat() if certificate else ""
        site = (known or {}).get(name)
        status = site.status if site else "unknown" if known is None else "not enrolled"
        found.append(Enrolled(name, status, ends, site.seen if site else ""))
    removed = [Enrolled(name, "removed", "", "") for name in files.register.removed()]
    return sorted([*found, *removed], key=lambda site: site.name)


def identity(folder: Path, site: str) -> dict[str, str]:
    """What tells a site's present keys from others, and is no secret."""
    import hashlib

    files = locate(credentials_folder(folder), [site]).sites[site]
    certificate = read_certificate(files.client_certificate)
    return {
        "certificate": f"{certificate.serial_number:x}" if certificate else "",
        "key": hashlib.sha256(files.public_key.read_bytes()).hexdigest(),
    }


def _require(folder: Path, site: str, *, removed: bool = False) -> None:
    register = locate(credentials_folder(folder), [site]).register
    known = register.sites()
    if site in known or (removed and site in register.removed()):
        return
    advice = "add it again" if site in register.removed() else f"it has {', '.join(known) or 'none'}"
    raise FederationError(f"The federation has no site {site!r}: {advice}.")
