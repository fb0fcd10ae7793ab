"""Keys and certificates of a federation: who the SuperLink is, and who may join it.

Trust has three parts. A private certificate authority signs the SuperLink's TLS certificate, so
sites know whom they talk to. Every site has its own EC key pair; the SuperLink admits only
SuperNodes whose public key was enrolled. A shared secret lets the processes that execute apps
prove to the SuperLink (or to their SuperNode) that they belong to it.

Layout under the given folder; every file has mode 0600::

    ca.crt  ca.key  server.crt  server.key  superexec.secret
    sites/<site>/node.key  node.pub  superexec.secret
"""

from __future__ import annotations

import datetime
import ipaddress
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.errors import FederationError
from federation.files import write_private

LOCAL_NAMES = ("localhost", "127.0.0.1")
AUTHORITY_LIFETIME = datetime.timedelta(days=3650)
# Public authorities cap server certificates at 398 days and TLS stacks have begun to enforce it.
SERVER_LIFETIME = datetime.timedelta(days=397)
# Renewing early means that a certificate does not run out during a long federation.
RENEWAL_MARGIN = datetime.timedelta(days=30)

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
        Shared by the SuperNode and the SuperExec that runs its ClientApps.
    """

    private_key: Path
    public_key: Path
    superexec_secret: Path


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
        Shared by the SuperLink and the SuperExec that runs its ServerApps.
    sites : dict of str to SiteCredentials
        By site name, in the order given.
    """

    authority: Path
    authority_key: Path
    server_certificate: Path
    server_key: Path
    superexec_secret: Path
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
    for site in credentials.sites.values():
        site.private_key.parent.mkdir(mode=0o700, exist_ok=True)
        _issue_secret(site.superexec_secret)
        _issue_node_key(site)
    return credentials


def _locate_site(folder: Path, site: str) -> SiteCredentials:
    if not _SITE_NAME.fullmatch(site):
        raise FederationError(
            f"Site name {site!r} is not usable: use lower-case letters, digits and inner hyphens, "
            "at most 63."
        )
    home = folder / "sites" / site
    return SiteCredentials(home / "node.key", home / "node.pub", home / "superexec.secret")


def _issue_authority(
    credentials: Credentials,
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate = _read_certificate(credentials.authority)
    if certificate is not None and credentials.authority_key.exists() and not _ends(certificate):
        return certificate, _read_key(credentials.authority_key)
    key = ec.generate_private_key(ec.SECP384R1())
    name = _common_name("Hybrid federation authority")
    certificate = (
        _builder(name, name, key.public_key(), AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA384())
    )
    write_private(credentials.authority_key, _pem(key))
    write_private(credentials.authority, certificate.public_bytes(serialization.Encoding.PEM))
    return certificate, key


def _issue_server(
    credentials: Credentials,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    names: list[str],
) -> None:
    alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
    present = _read_certificate(credentials.server_certificate)
    if (
        present is not None
        and credentials.server_key.exists()
        and not _ends(present)
        and _alternatives(present) == alternatives
        and _signed_by(present, authority)
    ):
        return
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(
            _common_name("Hybrid SuperLink"), authority.subject, key.public_key(), SERVER_LIFETIME
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(alternatives, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            critical=False,
        )
        .sign(authority_key, hashes.SHA384())
    )
    write_private(credentials.server_key, _pem(key))
    write_private(
        credentials.server_certificate, certificate.public_bytes(serialization.Encoding.PEM)
    )


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


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    lifetime: datetime.timedelta,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        # Sites' clocks may be a little behind the machine that issues.
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _alternatives(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def _ends(certificate: x509.Certificate) -> bool:
    return certificate.not_valid_after_utc < datetime.datetime.now(datetime.UTC) + RENEWAL_MARGIN


def _signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except Exception:  # a bad signature and a foreign issuer raise different, unrelated types
        return False
    return True


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _read_certificate(path: Path) -> x509.Certificate | None:
    if not path.exists():
        return None
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as error:
        raise _unreadable(path) from error


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except ValueError as error:
        raise _unreadable(path) from error
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def _read_node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), password=None)
    except ValueError as error:
        raise _unreadable(path) from error
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def _unreadable(path: Path) -> FederationError:
    return FederationError(f"{path} is damaged: delete it and issue the credentials again.")
