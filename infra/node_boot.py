"""What a GPU machine does from its first boot on: cloud-init that makes it a node of the cluster.

Pure: the scripts and units are the files of `node_files/`; what differs between environments is in
`/etc/hybrid/node.env` and in k3s's configuration. No secret is among it: the machine fetches the
join token itself, with the role or identity that its cloud gives it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from infra import gpu, k3s

FILES = Path(__file__).resolve().parent / "node_files"
PROGRAMS = "/usr/local/lib/hybrid"
UNITS = ("hybrid-route.service", "hybrid-join.service", "hybrid-watch.service")

# Below what fits through an IPsec tunnel of AWS (1446) and through WireGuard (1420).
LINK_MTU = 1400
# Of the two minutes between the notice of an interruption and the end on AWS.
DRAIN_SECONDS = 90


@dataclass(frozen=True)
class Cluster:
    """The cluster that machines join.

    Parameters
    ----------
    servers
        Addresses of its k3s servers, which are reached over the link.
    networks
        The sites' networks, all behind the link.
    release
        The k3s that is installed: the servers' own version.
    """

    servers: Sequence[str]
    networks: Sequence[str]
    release: k3s.Release


@dataclass(frozen=True)
class Membership:
    """What a machine needs to come and to go; :func:`on_aws` and its neighbours make one.

    Parameters
    ----------
    cloud
        Whose machine it is: what it is told, it asks as `node_files/<cloud>.sh` does.
    values
        Settings that this file reads.
    drain_seconds, watch_seconds
        How long its pods have to end, and how often it looks for a notice. Together with the last
        steps they fit between a spot machine's notice and its end.
    largest
        Bytes of user data that the cloud takes.
    labels
        Of the node, besides those that all have.
    """

    cloud: Literal["aws", "gcp", "azure"]
    values: Mapping[str, str]
    drain_seconds: int
    watch_seconds: int
    largest: int
    labels: Sequence[str] = ()


def on_aws(region: str, token_secret: str, group: str, hook: str) -> Membership:
    """Membership by the ARN of the token's secret, the autoscaling group and the hook that waits
    for a machine to leave; a spot machine has two minutes."""
    values = {"REGION": region, "TOKEN_SECRET": token_secret, "GROUP": group, "HOOK": hook}
    labels = [f"{gpu.ACCELERATOR_LABEL}={gpu.ACCELERATOR}"]
    return Membership("aws", values, DRAIN_SECONDS, 5, 16384, labels)


def on_gcp(project: str, token_secret: str) -> Membership:
    """Membership by the full name of the token's secret; a spot machine has 30 seconds."""
    values = {"PROJECT": project, "TOKEN_SECRET": token_secret}
    labels = [f"{gpu.GOOGLE_ACCELERATOR_LABEL}={gpu.ACCELERATOR}"]
    return Membership("gcp", values, 20, 2, 262144, labels)


def on_azure(identity: str, vault: str, token_secret: str) -> Membership:
    """Membership by the client id of the machines' identity, the key vault's address and the name
    of the token's secret in it; a spot machine has 30 seconds."""
    values = {"CLIENT_ID": identity, "VAULT": vault, "TOKEN_SECRET": token_secret}
    labels = [f"{gpu.AZURE_ACCELERATOR_LABEL}={gpu.ACCELERATOR}"]
    return Membership("azure", values, 20, 2, 65535, labels)


def user_data(cluster: Cluster, membership: Membership) -> str:
    """Cloud-init of a machine.

    Raises
    ------
    ValueError
        It is longer than the cloud takes, in bytes.
    """
    files = [
        _file("/etc/hybrid/node.env", settings(cluster, membership), "0644"),
        _file(f"{PROGRAMS}/install-k3s.sh", install_script(cluster.release, membership), "0755"),
        _file(f"{PROGRAMS}/lib.sh", _shipped("lib.sh"), "0644"),
        _file(f"{PROGRAMS}/cloud.sh", _shipped(f"{membership.cloud}.sh"), "0644"),
        *(
            _file(f"{PROGRAMS}/{name}.sh", _shipped(f"{name}.sh"), "0755")
            for name in ("route", "join", "watch", "leave")
        ),
        *(_file(f"/etc/systemd/system/{unit}", _shipped(unit), "0644") for unit in UNITS),
    ]
    commands = [
        ["systemctl", "daemon-reload"],
        # Not waited for: joining goes on until it succeeds, and cloud-init has an end.
        ["systemctl", "enable", "--now", "--no-block", *UNITS],
    ]
    text = "#cloud-config\n" + yaml.dump(
        {"write_files": files, "runcmd": commands}, Dumper=_Readable, sort_keys=False, width=1000
    )
    if (size := len(text.encode())) > membership.largest:
        raise ValueError(f"user data of {size} bytes, but the cloud takes {membership.largest}")
    return text


def settings(cluster: Cluster, membership: Membership) -> str:
    """Text of node.env, which the scripts read."""
    values = {
        "SERVERS": " ".join(cluster.servers),
        "API_PORT": str(k3s.API_PORT),
        "SITE_NETWORKS": " ".join(cluster.networks),
        "LINK_MTU": str(LINK_MTU),
        **membership.values,
        "DRAIN_SECONDS": str(membership.drain_seconds),
        "WATCH_SECONDS": str(membership.watch_seconds),
    }
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())


def install_script(release: k3s.Release, membership: Membership, *, root: str = "") -> str:
    """Script that installs k3s as an agent with the token on its standard input.

    What only the machine knows, such as its name and its server, is in a file of its own beside the
    configuration; `root` is put before every path that is written.
    """
    configuration = {
        "token-file": k3s.TOKEN_FILE,
        "node-label": [f"{gpu.NODE_LABEL}={gpu.NODE_LABEL_VALUE}", *membership.labels],
        "node-taint": [f"{gpu.GPU}={gpu.TAINT_VALUE}:NoSchedule"],
    }
    text = yaml.safe_dump(configuration, sort_keys=True)
    return k3s.install_script("agent", release, text, bundled=False, root=root)


class _Readable(yaml.SafeDumper):
    """YAML with scripts as they are, instead of quoted on one line."""


_Readable.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    ),
)


def _file(path: str, content: str, permissions: str) -> dict[str, str]:
    return {"path": path, "permissions": permissions, "content": content.rstrip("\n") + "\n"}


def _shipped(name: str) -> str:
    return (FILES / name).read_text(encoding="utf-8")
