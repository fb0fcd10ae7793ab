"""A certificate authority, as the engine's tls provider would make one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

NAME = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "authority")])


@cache
def pair() -> tuple[str, str]:
    """Certificate and key in PEM."""
    key = ec.generate_private_key(ec.SECP384R1())
    now = datetime.now(UTC)
    uses = dict.fromkeys(
        ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
         "key_agreement", "encipher_only", "decipher_only"), False,
    )  # fmt: skip
    certificate = (
        x509.CertificateBuilder(NAME, NAME, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**uses, key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), pem(key)


def pem(key: ec.EllipticCurvePrivateKey) -> str:
    """A key in PEM."""
    form = serialization.PrivateFormat.TraditionalOpenSSL
    return key.private_bytes(
        serialization.Encoding.PEM, form, serialization.NoEncryption()
    ).decode()


def site(serial: int, name: str = "north") -> tuple[str, str]:
    """Certificate, signed by the authority, and key of a site; as for the proxy itself."""
    authority, authority_key = pair()
    signer = serialization.load_pem_private_key(authority_key.encode(), password=None)
    issuer = x509.load_pem_x509_certificate(authority.encode())
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder(issuer.subject, subject, key.public_key(), serial)
        .not_valid_before(issuer.not_valid_before_utc)
        .not_valid_after(issuer.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(signer, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), pem(key)
