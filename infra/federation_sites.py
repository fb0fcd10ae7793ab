"""Which sites the proxy on Kubernetes lets in: the list of certificates that no longer count.

The layer's own authority signs the sites' client certificates; `removed_certificates` in the
settings are serial numbers of those that are no longer good. The list follows from these alone, so
an `up` that removes nobody changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

AUTHORITY, REVOKED, SCRIPT = "sites.crt", "revoked.crl", "proxy.sh"

# nginx reads its files at a signal only, and a ConfigMap changes under its feet.
WATCH = """\
#!/bin/sh
# Runs nginx with the configuration $1; has it read all again when the file $2 changes, which is
# looked at every $3 seconds.
# Before nginx reads it: what comes in between is read twice rather than never.
seen=$(cksum < "$2")
nginx -c "$1" -g 'daemon off;' &
proxy=$!
trap 'kill -QUIT $proxy' TERM INT
while kill -0 $proxy 2> /dev/null; do
    sleep "$3" &
    wait $!
    now=$(cksum < "$2")
    if [ "$now" != "$seen" ]; then
        seen=$now
        echo 'the list of removed sites has changed: nginx reads it again' >&2
        kill -HUP $proxy
    fi
done
wait $proxy
"""


def revocation_list(authority: str, key: str, removed: Sequence[str]) -> str:
    """List of certificates that are no longer good, in PEM; of the same input, the same text.

    It stays valid as long as the authority: nginx refuses everybody under a list that has ended.

    Parameters
    ----------
    authority, key : str
        Certificate and EC key of who signs, in PEM.
    removed : sequence of str
        Serial numbers, hexadecimal.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    certificate = x509.load_pem_x509_certificate(authority.encode())
    since = certificate.not_valid_before_utc
    unsigned = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(certificate.subject)
        .last_update(since)
        .next_update(certificate.not_valid_after_utc)
    )
    for serial in sorted({int(text, 16) for text in removed}):
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(since)
        unsigned = unsigned.add_revoked_certificate(entry.build())
    signer = serialization.load_pem_private_key(key.encode(), password=None)
    signed = unsigned.sign(signer, hashes.SHA256(), ecdsa_deterministic=True)
    return signed.public_bytes(serialization.Encoding.PEM).decode()
