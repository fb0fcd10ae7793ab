"""Keys and certificates are what other programs take them for."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from infra.offline.errors import OfflineError
from infra.offline.resource import Request
from infra.offline.tls import TYPES


def create(name: str, **inputs: Any) -> dict[str, Any]:
    token = f"tls:index/{name[0].lower()}{name[1:]}:{name}"
    return TYPES[token].create(None, Request("urn", inputs, "mark"))[1]


@pytest.mark.parametrize(
    "inputs",
    [
        {"algorithm": "RSA", "rsaBits": 2048},
        {"algorithm": "ECDSA", "ecdsaCurve": "P384"},
        {"algorithm": "ED25519"},
    ],
)
def test_keys_and_their_certificates(inputs: dict[str, Any]) -> None:
    key = create("PrivateKey", **inputs)
    loaded = serialization.load_pem_private_key(key["privateKeyPem"].encode(), None)
    openssh = serialization.load_ssh_private_key(key["privateKeyOpenssh"].encode(), None)
    layout = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert loaded.public_key().public_bytes(*layout).decode() == key["publicKeyPem"]
    assert openssh.public_key().public_bytes(*layout).decode() == key["publicKeyPem"]

    made = create(
        "SelfSignedCert",
        privateKeyPem=key["privateKeyPem"],
        validityPeriodHours=24,
        allowedUses=["digital_signature", "cert_signing", "server_auth"],
        dnsNames=["superlink.local"],
        ipAddresses=["127.0.0.1"],
        isCaCertificate=True,
        subject={"commonName": "superlink", "organization": "hybrid"},
    )
    assert made["keyAlgorithm"] == inputs["algorithm"]
    certificate = x509.load_pem_x509_certificate(made["certPem"].encode())
    certificate.verify_directly_issued_by(certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["superlink.local"]
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certificate.subject.rfc4514_string() == "O=hybrid,CN=superlink"


def test_an_unknown_algorithm_and_an_unknown_use_are_refused() -> None:
    with pytest.raises(OfflineError, match="no key algorithm 'DSA'"):
        create("PrivateKey", algorithm="DSA")
    key = create("PrivateKey", algorithm="ED25519")["privateKeyPem"]
    with pytest.raises(OfflineError, match="no use 'server'"):
        create("SelfSignedCert", privateKeyPem=key, validityPeriodHours=1, allowedUses=["server"])
