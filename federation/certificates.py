"""X.509: what the federation's certificates are made of, and how they are read again."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from federation.errors import FederationError
from federation.files import write_private

# Renewing early means that a certificate does not run out during a long federation.
RENEWAL_MARGIN = datetime.timedelta(days=30)


def builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    lifetime: datetime.timedelta,
) -> x509.CertificateBuilder:
    """What all certificates have in common."""
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


def key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """What a key may do: sign certificates and revocation lists, or only what it says itself."""
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


def leaf(
    subject: str,
    usage: x509.ObjectIdentifier,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    lifetime: datetime.timedelta,
    names: x509.SubjectAlternativeName | None = None,
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A certificate for one purpose, signed by the authority, and its new key."""
    key = ec.generate_private_key(ec.SECP256R1())
    unsigned = (
        builder(common_name(subject), authority.subject, key.public_key(), lifetime)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            critical=False,
        )
    )
    if names is not None:
        unsigned = unsigned.add_extension(names, critical=False)
    return unsigned.sign(authority_key, hashes.SHA384()), key


def root(
    subject: str, lifetime: datetime.timedelta, names: x509.SubjectAlternativeName | None = None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A certificate that signs itself, and its new key."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = common_name(subject)
    unsigned = (
        builder(name, name, key.public_key(), lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
    )
    if names is not None:
        unsigned = unsigned.add_extension(names, critical=False)
    return unsigned.sign(key, hashes.SHA384()), key


def revocation_list(
    revoked: dict[int, datetime.datetime],
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
) -> bytes:
    """The list of serial numbers that are no longer good and since when, in PEM.

    It stays valid as long as the authority: a proxy refuses everybody under a list that has ended.
    """
    now = datetime.datetime.now(datetime.UTC)
    unsigned = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.subject)
        .last_update(now - datetime.timedelta(hours=1))
        .next_update(authority.not_valid_after_utc)
    )
    for serial, since in sorted(revoked.items()):
        unsigned = unsigned.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(since).build()
        )
    return unsigned.sign(authority_key, hashes.SHA384()).public_bytes(serialization.Encoding.PEM)


def write_pair(
    certificate_file: Path,
    key_file: Path,
    certificate: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
) -> None:
    """Write a certificate and its key; the key first, so that no certificate is without one."""
    write_private(key_file, pem(key))
    write_private(certificate_file, certificate.public_bytes(serialization.Encoding.PEM))


def common_name(text: str) -> x509.Name:
    """A name of one part."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def alternatives(names: Iterable[str]) -> x509.SubjectAlternativeName:
    """Host names and IP addresses as a certificate has them."""
    return x509.SubjectAlternativeName([_general_name(name) for name in names])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def alternatives_of(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    """Host names and IP addresses that a certificate is for."""
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def ends(certificate: x509.Certificate) -> bool:
    """Whether it has run out or does so soon."""
    return certificate.not_valid_after_utc < datetime.datetime.now(datetime.UTC) + RENEWAL_MARGIN


def signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether the authority signed it."""
    try:
        certificate.verify_directly_issued_by(authority)
    except Exception:  # a bad signature and a foreign issuer raise different, unrelated types
        return False
    return True


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as a file holds it."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def read_certificate(path: Path) -> x509.Certificate | None:
    """The certificate in a file; None where there is no file.

    Raises
    ------
    FederationError
        If it is damaged.
    """
    if not path.exists():
        return None
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as error:
        raise unreadable(path) from error


def read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The private key in a file; FederationError if it is damaged."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except ValueError as error:
        raise unreadable(path) from error
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def unreadable(path: Path) -> FederationError:
    """The error of a damaged file."""
    return FederationError(f"{path} is damaged: delete it and issue the credentials again.")
