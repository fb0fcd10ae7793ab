"""A real Kubernetes API on this machine: etcd, kube-apiserver and its controller manager.

There is no node: objects are checked, admitted, defaulted and reconciled as in any cluster, and
pods wait for ever. ``make kubernetes`` builds the programs. Everything listens on 127.0.0.1 and
asks for a client certificate.
"""

from __future__ import annotations

import base64
import os
import ssl
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import yaml

from infra.offline.files import write_private

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager")
LOOPBACK = "127.0.0.1"
LIFETIME, RENEWAL = timedelta(days=397), timedelta(days=30)
# Besides the API's own port, those of etcd: for clients, and for peers that it does not have.
PORTS = 3

# Of the controllers, those that our objects rely on: pods of Deployments and Jobs, what is used of
# quotas and budgets, accounts of namespaces, volumes, and that what is deleted goes.
CONTROLLERS = (
    "deployment-controller", "replicaset-controller", "daemonset-controller", "job-controller",
    "resourcequota-controller", "disruption-controller", "serviceaccount-controller",
    "persistentvolume-binder-controller", "persistentvolumeclaim-protection-controller",
    "namespace-controller", "garbage-collector-controller", "clusterrole-aggregation-controller",
)  # fmt: skip


@dataclass(frozen=True)
class Program:
    """One process: the command, the ports on 127.0.0.1 that it opens."""

    name: str
    command: list[str]
    ports: tuple[int, ...]


def find_programs() -> dict[str, Path] | None:
    """Where the programs are, by name; None where ``make kubernetes`` did not build them."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(cache) / "hybrid" / "kubernetes" / "bin"
    found = {name: folder / name for name in PROGRAMS}
    return found if all(path.exists() for path in found.values()) else None


def commands(programs: dict[str, Path], folder: Path, port: int) -> list[Program]:
    """The three processes of an API at ``https://127.0.0.1:<port>``.

    Parameters
    ----------
    programs
        As :func:`find_programs` gives them.
    folder
        Where :func:`prepare` put the credentials; etcd keeps its data there too.
    port
        The API's; etcd takes the two after it.
    """
    store, peers = f"https://{LOOPBACK}:{port + 1}", f"https://{LOOPBACK}:{port + 2}"
    authority, certificate, key = (str(folder / f) for f in ("ca.crt", "server.crt", "server.key"))
    accounts = str(folder / "accounts.key")
    etcd = [
        str(programs["etcd"]),
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={store}", f"--advertise-client-urls={store}",
        f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}",
        f"--initial-cluster=default={peers}",
        "--client-cert-auth", f"--trusted-ca-file={authority}",
        f"--cert-file={certificate}", f"--key-file={key}",
        "--peer-client-cert-auth", f"--peer-trusted-ca-file={authority}",
        f"--peer-cert-file={certificate}", f"--peer-key-file={key}",
        "--log-level=warn",
    ]  # fmt: skip
    api = [
        str(programs["kube-apiserver"]),
        f"--bind-address={LOOPBACK}", f"--advertise-address={LOOPBACK}", f"--secure-port={port}",
        f"--tls-cert-file={certificate}", f"--tls-private-key-file={key}",
        f"--client-ca-file={authority}", "--anonymous-auth=false", "--authorization-mode=RBAC",
        f"--etcd-servers={store}", f"--etcd-cafile={authority}",
        f"--etcd-certfile={certificate}", f"--etcd-keyfile={key}",
        f"--service-account-issuer=https://{LOOPBACK}:{port}",
        f"--service-account-key-file={accounts}", f"--service-account-signing-key-file={accounts}",
        "--service-cluster-ip-range=10.43.0.0/16",
        # Nothing on this machine routes to the service that would lead to the API itself.
        "--endpoint-reconciler-type=none",
        "--allow-privileged=true", "--profiling=false",
    ]  # fmt: skip
    controllers = [
        str(programs["kube-controller-manager"]),
        f"--kubeconfig={folder / 'kubeconfig'}", f"--service-account-private-key-file={accounts}",
        f"--controllers={','.join(CONTROLLERS)}", "--leader-elect=false", "--secure-port=0",
        "--profiling=false",
    ]  # fmt: skip
    return [
        Program("etcd", etcd, (port + 1, port + 2)),
        Program("kubernetes", api, (port,)),
        Program("controllers", controllers, ()),
    ]


def prepare(folder: Path, port: int) -> Path:
    """Make keys, certificates and the administrator's kubeconfig, where they lack or run out.

    Returns
    -------
    Path
        The kubeconfig. The authority's key is not kept: nobody can issue another certificate.
    """
    file = folder / "kubeconfig"
    if not _is_valid(file, port):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        issued = _issue()
        accounts = folder / "accounts.key"
        if accounts.exists():  # tokens that it signed stay valid
            del issued["accounts.key"]
        for name, content in issued.items():
            write_private(folder / name, content)
        # Last: where it stands, the others do.
        text = {name: base64.b64encode(content).decode() for name, content in issued.items()}
        written = kubeconfig(
            f"https://{LOOPBACK}:{port}",
            {"certificate-authority-data": text["ca.crt"]},
            {"client-certificate-data": text["client.crt"], "client-key-data": text["client.key"]},
        )
        write_private(file, written.encode())
    return file


def kubeconfig(
    server: str, trust: Mapping[str, str] = {}, credentials: Mapping[str, str] = {}
) -> str:
    """Text of a kubeconfig that leads to one API, with what its cluster and user entries hold."""
    named = {
        "clusters": [{"name": "local", "cluster": {"server": server, **trust}}],
        "users": [{"name": "local", "user": dict(credentials)}],
        "contexts": [{"name": "local", "context": {"cluster": "local", "user": "local"}}],
    }
    return yaml.safe_dump(
        {"apiVersion": "v1", "kind": "Config", "current-context": "local", **named}
    )


def is_ready(folder: Path, port: int) -> bool:
    """Whether the API answers and says that it is ready."""
    context = ssl.create_default_context(cafile=folder / "ca.crt")
    context.load_cert_chain(folder / "client.crt", folder / "client.key")
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        with opener.open(f"https://{LOOPBACK}:{port}/readyz", timeout=5):
            return True
    except OSError:  # urllib's errors are such, also for the API's own "not yet"
        return False


def _is_valid(file: Path, port: int) -> bool:
    from cryptography import x509

    try:
        entry = yaml.safe_load(file.read_text())
        held = base64.b64decode(entry["users"][0]["user"]["client-certificate-data"])
        until = x509.load_pem_x509_certificate(held).not_valid_after_utc
        server = entry["clusters"][0]["cluster"]["server"]
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return False
    return server == f"https://{LOOPBACK}:{port}" and until - RENEWAL > datetime.now(UTC)


def _issue() -> dict[str, bytes]:
    """PEM files by name: an authority, two identities that it signed, and a key for accounts."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID as Usage
    from cryptography.x509.oid import NameOID

    now = datetime.now(UTC)

    def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
        return key.private_bytes(
            serialization.Encoding.PEM,
            # The form in which kube-apiserver reads the public half of the accounts' key, too.
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )

    def subject(name: str, group: str) -> x509.Name:
        return x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, group),
                x509.NameAttribute(NameOID.COMMON_NAME, name),
            ]
        )

    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = subject("hybrid-local", "hybrid")

    def certificate(name: x509.Name, key: ec.EllipticCurvePrivateKey, *more: Any) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(authority)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + LIFETIME)
            .add_extension(x509.BasicConstraints(name == authority, None), critical=True)
        )
        for extension in more:
            builder = builder.add_extension(extension, critical=False)
        signed = builder.sign(authority_key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)

    server, client, accounts = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    names = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(IPv4Address(LOOPBACK))]
    )
    # The server's certificate is also what the API shows to etcd, and etcd to its peers.
    both = x509.ExtendedKeyUsage([Usage.SERVER_AUTH, Usage.CLIENT_AUTH])
    administrator = subject("hybrid", "system:masters")
    return {
        "ca.crt": certificate(authority, authority_key),
        "server.crt": certificate(subject("kubernetes", "hybrid"), server, names, both),
        "server.key": pem(server),
        "client.crt": certificate(
            administrator, client, x509.ExtendedKeyUsage([Usage.CLIENT_AUTH])
        ),
        "client.key": pem(client),
        "accounts.key": pem(accounts),
    }
