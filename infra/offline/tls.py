"""Private keys and self-signed certificates, made on this machine and kept in the state."""

from __future__ import annotations

import hashlib
import ipaddress
from datetime import UTC, datetime, timedelta
from typing import Any

from infra.offline.errors import OfflineError
from infra.offline.resource import Properties, Request, ResourceType

_KEY_USES = {
    "digital_signature": "digital_signature",
    "content_commitment": "content_commitment",
    "key_encipherment": "key_encipherment",
    "data_encipherment": "data_encipherment",
    "key_agreement": "key_agreement",
    "cert_signing": "key_cert_sign",
    "crl_signing": "crl_sign",
    "encipher_only": "encipher_only",
    "decipher_only": "decipher_only",
}
_EXTENDED_USES = {
    "any_extended": "ANY_EXTENDED_KEY_USAGE",
    "client_auth": "CLIENT_AUTH",
    "code_signing": "CODE_SIGNING",
    "email_protection": "EMAIL_PROTECTION",
    "ocsp_signing": "OCSP_SIGNING",
    "server_auth": "SERVER_AUTH",
    "timestamping": "TIME_STAMPING",
}
_SUBJECT = {
    "commonName": "COMMON_NAME",
    "country": "COUNTRY_NAME",
    "locality": "LOCALITY_NAME",
    "organization": "ORGANIZATION_NAME",
    "organizationalUnit": "ORGANIZATIONAL_UNIT_NAME",
    "postalCode": "POSTAL_CODE",
    "province": "STATE_OR_PROVINCE_NAME",
    "serialNumber": "SERIAL_NUMBER",
}


def connect(configuration: Properties) -> None:
    """There is nothing to connect to."""


def _generate(inputs: Properties) -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    algorithm = inputs["algorithm"].upper()
    if algorithm == "RSA":
        return rsa.generate_private_key(public_exponent=65537, key_size=inputs.get("rsaBits", 2048))
    if algorithm == "ED25519":
        return ed25519.Ed25519PrivateKey.generate()
    curves = {
        "P224": ec.SECP224R1,
        "P256": ec.SECP256R1,
        "P384": ec.SECP384R1,
        "P521": ec.SECP521R1,
    }
    curve = inputs.get("ecdsaCurve", "P224")
    if algorithm != "ECDSA" or curve not in curves:
        raise OfflineError(
            f"there is no key algorithm {inputs['algorithm']!r} with curve {curve!r}: use RSA, "
            f"ED25519, or ECDSA with one of {', '.join(curves)}"
        )
    return ec.generate_private_key(curves[curve]())


def _key(api: None, request: Request) -> tuple[str, Properties]:
    from cryptography.hazmat.primitives import serialization as form

    key = _generate(request.inputs)
    public = key.public_key()

    def private(encoding: Any, layout: Any) -> str:
        return key.private_bytes(encoding, layout, form.NoEncryption()).decode()

    der = public.public_bytes(form.Encoding.DER, form.PublicFormat.SubjectPublicKeyInfo)
    pkcs8 = private(form.Encoding.PEM, form.PrivateFormat.PKCS8)
    is_ed25519 = request.inputs["algorithm"].upper() == "ED25519"  # it has no older layout
    return hashlib.sha1(der, usedforsecurity=False).hexdigest(), {
        "privateKeyPem": pkcs8
        if is_ed25519
        else private(form.Encoding.PEM, form.PrivateFormat.TraditionalOpenSSL),
        "privateKeyPemPkcs8": pkcs8,
        "privateKeyOpenssh": private(form.Encoding.PEM, form.PrivateFormat.OpenSSH),
        "publicKeyPem": public.public_bytes(
            form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo
        ).decode(),
        "publicKeyOpenssh": public.public_bytes(
            form.Encoding.OpenSSH, form.PublicFormat.OpenSSH
        ).decode()
        + "\n",
    }


def _name(subject: Properties) -> Any:
    from cryptography import x509

    oid = x509.oid.NameOID
    attributes = [
        x509.NameAttribute(getattr(oid, constant), subject[name])
        for name, constant in _SUBJECT.items()
        if subject.get(name)
    ]
    attributes += [
        x509.NameAttribute(oid.STREET_ADDRESS, line)
        for line in subject.get("streetAddresses") or ()
    ]
    return x509.Name(attributes)


def _certificate(api: None, request: Request) -> tuple[str, Properties]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

    inputs = request.inputs
    key: Any = serialization.load_pem_private_key(inputs["privateKeyPem"].encode(), password=None)
    start = datetime.now(UTC).replace(microsecond=0)
    end = start + timedelta(hours=inputs["validityPeriodHours"])
    name = _name(inputs.get("subject") or {})
    authority = bool(inputs.get("isCaCertificate"))
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(authority, inputs.get("maxPathLength")), critical=True)
    )
    uses = set(inputs["allowedUses"])
    if unknown := sorted(uses - _KEY_USES.keys() - _EXTENDED_USES.keys()):
        raise OfflineError(
            f"a certificate has no use {unknown[0]!r}: choose from "
            + ", ".join(sorted([*_KEY_USES, *_EXTENDED_USES]))
        )
    if uses & _KEY_USES.keys():
        flags = {argument: use in uses for use, argument in _KEY_USES.items()}
        builder = builder.add_extension(x509.KeyUsage(**flags), critical=True)
    if extended := [
        getattr(x509.oid.ExtendedKeyUsageOID, _EXTENDED_USES[use])
        for use in inputs["allowedUses"]
        if use in _EXTENDED_USES
    ]:
        builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False)
    names: list[x509.GeneralName] = [x509.DNSName(each) for each in inputs.get("dnsNames") or ()]
    names += [x509.IPAddress(ipaddress.ip_address(a)) for a in inputs.get("ipAddresses") or ()]
    names += [x509.UniformResourceIdentifier(each) for each in inputs.get("uris") or ()]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    if authority or inputs.get("setSubjectKeyId"):
        builder = builder.add_extension(identifier, critical=False)
    if inputs.get("setAuthorityKeyId"):
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
            critical=False,
        )
    signed = builder.sign(
        key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    )
    kinds = {rsa.RSAPrivateKey: "RSA", ed25519.Ed25519PrivateKey: "ED25519"}
    kind = next((text for cls, text in kinds.items() if isinstance(key, cls)), "ECDSA")
    return str(signed.serial_number), {
        "certPem": signed.public_bytes(serialization.Encoding.PEM).decode(),
        "keyAlgorithm": kind,
        "readyForRenewal": False,
        "validityStartTime": start.isoformat(),
        "validityEndTime": end.isoformat(),
    }


def _keep(api: None, identity: str, state: Properties) -> Properties:
    return {}


def _forget(api: None, identity: str, state: Properties) -> None:
    return None


TYPES = {
    "tls:index/privateKey:PrivateKey": ResourceType(
        create=_key,
        read=_keep,
        delete=_forget,
        secrets=("privateKeyPem", "privateKeyPemPkcs8", "privateKeyOpenssh"),
    ),
    "tls:index/selfSignedCert:SelfSignedCert": ResourceType(
        create=_certificate, read=_keep, delete=_forget, secrets=("privateKeyPem",)
    ),
}
