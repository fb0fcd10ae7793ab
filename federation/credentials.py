"""Keys and certificates of a federation: who the SuperLink is, and who may join it.

Trust has four parts. A private certificate authority signs the SuperLink's TLS certificate, so
sites know whom they talk to. It also signs one client certificate for each site, which the proxy
before the SuperLink asks for, and the list of those that are revoked. Every site has its own EC
key pair besides; the SuperLink admits only SuperNodes whose public key was enrolled. A shared
secret lets the processes that execute apps prove to the SuperLink (or to their SuperNode) that
they belong to it.

Layout under the given folder; every file has mode 0600::

    ca.crt  ca.key  server.crt  server.key  superexec.secret
    revoked.crl  register.json
    sites/<site>/node.key  node.pub  superexec.secret
                 client.crt  client.key  gateway.crt  gateway.key
"""

from __future__ import annotations

import datetime
import re
import secrets
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from federation.certificates import (
    alternatives,
    alternatives_of,
    ends,
    leaf,
    read_certificate,
    read_key,
    revocation_list,
    root,
    signed_by,
    unreadable,
    write_pair,
)
from federation.errors import FederationError
from federation.files import write_private
from federation.register import SiteRegister

LOCAL_NAMES = ("localhost", "127.0.0.1")
AUTHORITY_LIFETIME = datetime.timedelta(days=3650)
# Public authorities cap server certificates at 398 days and TLS stacks have begun to enforce it.
SERVER_LIFETIME = datetime.timedelta(days=397)
CLIENT_LIFETIME = SERVER_LIFETIME

_SITE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class SiteCredentials:
    """Files that belong to one site.

    Attributes
    ----------
    private_key : Path
        EC P-384 key of the SuperNode (OpenSSH format); stays at the site.
    public_key : Path
        Its public half, which the SuperLink must know before the SuperNode may connect.
    superexec_secret : Path
        Shared by the SuperNode and the executor that runs its ClientApps.
    client_certificate, client_key : Path
        TLS identity of the site before the SuperLink's proxy.
    gateway_certificate, gateway_key : Path
        TLS identity of the site's gateway on its own loopback; signed by nobody else.
    """

    private_key: Path
    public_key: Path
    superexec_secret: Path
    client_certificate: Path
    client_key: Path
    gateway_certificate: Path
    gateway_key: Path


@dataclass(frozen=True)
class Credentials:
    """Files that the SuperLink and its sites need.

    Attributes
    ----------
    authority : Path
        Certificate of the private authority; the root that every party verifies against.
    authority_key : Path
        Key of the authority; only used to sign.
    server_certificate, server_key : Path
        TLS identity of the SuperLink.
    superexec_secret : Path
        Shared by the SuperLink and the executor that runs its ServerApps.
    revoked : Path
        List of the sites' certificates that are no longer good.
    register : SiteRegister
        Which sites there were, with their certificates' serial numbers.
    sites : dict of str to SiteCredentials
        By site name, in the order given.
    """

    authority: Path
    authority_key: Path
    server_certificate: Path
    server_key: Path
    superexec_secret: Path
    revoked: Path
    register: SiteRegister
    sites: dict[str, SiteCredentials]


def locate(folder: Path, sites: Iterable[str] = ()) -> Credentials:
    """Name the credential files under `folder` without reading or making any.

    Raises
    ------
    FederationError
        If a site's name could not be used as a folder and node name.
    """
    folder = Path(folder).absolute()
    return Credentials(
        authority=folder / "ca.crt",
        authority_key=folder / "ca.key",
        server_certificate=folder / "server.crt",
        server_key=folder / "server.key",
        superexec_secret=folder / "superexec.secret",
        revoked=folder / "revoked.crl",
        register=SiteRegister(folder / "register.json"),
        sites={site: _locate_site(folder, site) for site in sites},
    )


def issue(folder: Path, sites: Iterable[str], *, names: Iterable[str] = ()) -> Credentials:
    """Make what is missing and renew what runs out; leave everything else as it is.

    Parameters
    ----------
    folder : Path
        Where the credentials live.
    sites : iterable of str
        Names of the sites that take part.
    names : iterable of str
        Host names and IP addresses, besides this machine's loopback, at which sites reach the
        SuperLink. A changed list renews the server's certificate.

    Raises
    ------
    FederationError
        If a site's name is not usable, or a stored key or certificate cannot be read.
    """
    credentials = locate(folder, sites)
    for private_folder in (credentials.authority.parent, credentials.authority.parent / "sites"):
        private_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority, authority_key = _issue_authority(credentials)
    _issue_server(credentials, authority, authority_key, sorted({*LOCAL_NAMES, *names}))
    _issue_secret(credentials.superexec_secret)
    for name, site in credentials.sites.items():
        site.private_key.parent.mkdir(mode=0o700, exist_ok=True)
        _issue_secret(site.superexec_secret)
        _issue_node_key(site)
        _issue_client(credentials, name, authority, authority_key)
        _issue_gateway(site)
    if not _lists(credentials.revoked, authority):
        _write_revoked(credentials, authority, authority_key)
    return credentials


def revoke(folder: Path, site: str) -> Credentials:
    """Put every certificate that a site ever had on the list, and delete its keys.

    Its name stays in the register; see `SiteRegister`.
    """
    credentials = locate(folder, [site])
    authority = read_certificate(credentials.authority)
    if authority is None:
        raise FederationError(f"{credentials.authority} does not exist: there is no federation.")
    credentials.register.revoke(site)
    _write_revoked(credentials, authority, read_key(credentials.authority_key))
    shutil.rmtree(credentials.sites[site].private_key.parent, ignore_errors=True)
    return credentials


def _lists(path: Path, authority: x509.Certificate) -> bool:
    """Whether there is a list that this authority signed."""
    try:
        present = x509.load_pem_x509_crl(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    return present.is_signature_valid(authority.public_key())


def _write_revoked(
    credentials: Credentials, authority: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> None:
    listed = revocation_list(credentials.register.revoked(), authority, key)
    write_private(credentials.revoked, listed)


def _locate_site(folder: Path, site: str) -> SiteCredentials:
    if not _SITE_NAME.fullmatch(site):
        raise FederationError(
            f"Site name {site!r} is not usable: use lower-case letters, digits and inner hyphens, "
            "at most 63."
        )
    home = folder / "sites" / site
    names = ("node.key", "node.pub", "superexec.secret", "client.crt", "client.key",
             "gateway.crt", "gateway.key")  # fmt: skip
    return SiteCredentials(*(home / name for name in names))


def _issue_authority(
    credentials: Credentials,
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate = read_certificate(credentials.authority)
    if certificate is not None and credentials.authority_key.exists() and not ends(certificate):
        return certificate, read_key(credentials.authority_key)
    certificate, key = root("Hybrid federation authority", AUTHORITY_LIFETIME)
    write_pair(credentials.authority, credentials.authority_key, certificate, key)
    return certificate, key


def _issue_server(
    credentials: Credentials,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    names: list[str],
) -> None:
    wanted = alternatives(names)
    present = read_certificate(credentials.server_certificate)
    if (
        present is not None
        and credentials.server_key.exists()
        and not ends(present)
        and alternatives_of(present) == wanted
        and signed_by(present, authority)
    ):
        return
    usage = ExtendedKeyUsageOID.SERVER_AUTH
    pair = leaf("Hybrid SuperLink", usage, authority, authority_key, SERVER_LIFETIME, wanted)
    write_pair(credentials.server_certificate, credentials.server_key, *pair)


def _issue_client(
    credentials: Credentials,
    name: str,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
) -> None:
    site = credentials.sites[name]
    present = read_certificate(site.client_certificate)
    if (
        present is not None
        and site.client_key.exists()
        and not ends(present)
        and signed_by(present, authority)
    ):
        return
    usage = ExtendedKeyUsageOID.CLIENT_AUTH
    certificate, key = leaf(name, usage, authority, authority_key, CLIENT_LIFETIME)
    # Noted first: what was issued must be revocable, even after a crash between the two.
    credentials.register.note(name, certificate.serial_number)
    write_pair(site.client_certificate, site.client_key, certificate, key)


def _issue_gateway(site: SiteCredentials) -> None:
    if site.gateway_certificate.exists() and site.gateway_key.exists():
        return
    pair = root("Hybrid site gateway", AUTHORITY_LIFETIME, alternatives(LOCAL_NAMES))
    write_pair(site.gateway_certificate, site.gateway_key, *pair)


def _issue_secret(path: Path) -> None:
    if not path.exists():
        write_private(path, secrets.token_hex(32).encode())


def _issue_node_key(site: SiteCredentials) -> None:
    if site.private_key.exists():
        key = _read_node_key(site.private_key)
    else:
        key = ec.generate_private_key(ec.SECP384R1())
        write_private(
            site.private_key,
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.OpenSSH,
                serialization.NoEncryption(),
            ),
        )
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    if not site.public_key.exists() or site.public_key.read_bytes() != public:
        write_private(site.public_key, public)


def _read_node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), password=None)
    except ValueError as error:
        raise unreadable(path) from error
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key
