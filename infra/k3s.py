"""Shell scripts that install k3s on a host, and the configuration they write.

Pure: each function returns text. A script holds no secret; tokens come on its standard input: for a
server its own and the agents', a line each; for an agent the agents', with which nobody becomes a
server. Run it as root with ``sh``; running it again repairs or upgrades what is there.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import yaml

from infra.pods import LOST_LINK_SECONDS

RELEASES = "https://github.com/k3s-io/k3s/releases/download"
SOURCES = "https://raw.githubusercontent.com/k3s-io/k3s"
STAGING = "/var/tmp/hybrid-k3s"

TOKEN_FILE = "/etc/rancher/k3s/hybrid-token"
AGENT_TOKEN_FILE = "/etc/rancher/k3s/hybrid-agent-token"
# Written by a server: the agents' token with the hash of the cluster's authority, by which a node
# knows that it joins the right one.
JOIN_TOKEN = "/var/lib/rancher/k3s/server/agent-token"
KUBECONFIG = "/etc/rancher/k3s/k3s.yaml"
API_PORT = 6443


@dataclass(frozen=True)
class Download:
    """A file that a host needs: name in the air-gap bundle, web address, SHA-256 in hex."""

    name: str
    address: str
    sha256: str


@dataclass(frozen=True)
class Release:
    """The files of one k3s version for one processor architecture; `images` only with a bundle."""

    installer: Download
    binary: Download
    images: Download | None = None

    @property
    def files(self) -> list[Download]:
        """All of them."""
        return [file for file in (self.installer, self.binary, self.images) if file]


def release(
    version: str,
    architecture: Literal["amd64", "arm64"],
    *,
    installer_sha256: str,
    binary_sha256: str,
    images_sha256: str | None = None,
) -> Release:
    """Where k3s publishes the files of a version, e.g. "v1.33.1+k3s1"."""
    tag = version.replace("+", "%2B")
    suffix = "" if architecture == "amd64" else f"-{architecture}"
    images = f"k3s-airgap-images-{architecture}.tar.zst"
    return Release(
        Download("install.sh", f"{SOURCES}/{tag}/install.sh", installer_sha256),
        Download(f"k3s-{architecture}", f"{RELEASES}/{tag}/k3s{suffix}", binary_sha256),
        Download(images, f"{RELEASES}/{tag}/{images}", images_sha256) if images_sha256 else None,
    )


def configuration(
    role: Literal["server", "agent"],
    *,
    address: str,
    site: str,
    join: str | None,
    high_availability: bool = False,
) -> str:
    """Text of k3s's config.yaml for one host.

    Parameters
    ----------
    role
        What the host runs.
    address
        Its address in the site's network.
    site
        Label of the node.
    join
        Address of a server of the cluster; None for the first server.
    high_availability
        Whether several servers share their state (embedded etcd instead of SQLite).
    """
    options: dict[str, object] = {
        "token-file": TOKEN_FILE,
        "node-ip": address,
        "node-label": ["hybrid/pool=private", f"hybrid/site={site}"],
        # Many a cluster autoscaler stops at a node whose id has another form than AWS's
        # (kubernetes/autoscaler#8047); one that is in no group of its own it leaves alone. Google's
        # takes three parts after six characters for an id (#10140), and finds no group either.
        "kubelet-arg": [f"provider-id=aws:///{site}/{re.sub('[^a-z0-9]', '-', address.lower())}"],
    }
    if join is not None:
        options["server"] = f"https://{join}:{API_PORT}"
    if role == "server":
        options |= {
            "agent-token-file": AGENT_TOKEN_FILE,
            "tls-san": [address],
            "secrets-encryption": True,
            "write-kubeconfig-mode": "0600",
            # A node behind a lost link keeps its pods, for longer than the default of 5 minutes.
            "kube-apiserver-arg": [
                f"default-not-ready-toleration-seconds={LOST_LINK_SECONDS}",
                f"default-unreachable-toleration-seconds={LOST_LINK_SECONDS}",
            ],
        }
        if high_availability and join is None:
            options["cluster-init"] = True
    return yaml.safe_dump(options, sort_keys=True)


def install_script(
    role: Literal["server", "agent"],
    files: Release,
    config: str,
    *,
    bundled: bool,
    root: str = "",
) -> str:
    """Script that installs k3s; exit code 1 where a file has not the hash that it must have.

    Parameters
    ----------
    role
        What the host runs.
    files
        The release; each file is checked before any of them is used.
    config
        Text of config.yaml.
    bundled
        Take the files from the staging folder instead of the internet.
    root
        Put before every absolute path that is written; empty on a real host.
    """
    folder = f"{root}/var/lib/hybrid-k3s"
    rancher = f"{root}/etc/rancher/k3s"
    images = f"{root}/var/lib/rancher/k3s/agent/images"
    binaries = f"{root}/usr/local/bin"
    fetches = [
        shlex.join(["fetch", file.name, f"{STAGING}/{file.name}" if bundled else file.address])
        + f" {file.sha256}"
        for file in files.files
    ]
    obtain = 'cp "$2" "$1.part"' if bundled else _CURL
    install = [f"install -m 0755 {files.binary.name} {binaries}/k3s"]
    if files.images:
        install += [f"mkdir -p {images}", f"cp {files.images.name} {images}/"]
    return "\n".join(
        [
            "set -eu",
            "umask 077",
            f"mkdir -p {folder} {rancher} {binaries}",
            f"cd {folder}",
            # Each file is copied to a folder that only root can write before it is checked, so that
            # nobody can exchange it between the check and its use.
            "fetch() {",
            '    echo "$3  $1" | sha256sum -c --status - 2>/dev/null && return 0',
            f"    {obtain}",
            '    if ! echo "$3  $1.part" | sha256sum -c --status -; then',
            '        echo "$2 has not the SHA-256 $3: nothing was installed" >&2',
            '        rm -f "$1.part"',
            "        exit 1",
            "    fi",
            '    mv "$1.part" "$1"',
            "}",
            *fetches,
            *install,
            *(
                line
                for name in ("hybrid-token", *(["hybrid-agent-token"] if role == "server" else []))
                for line in (
                    "IFS= read -r token || [ -n \"$token\" ]",
                    f"printf '%s' \"$token\" > {rancher}/{name}.part",
                    f"mv {rancher}/{name}.part {rancher}/{name}",
                )
            ),
            f"cat > {rancher}/config.yaml <<'END'",
            config.rstrip("\n"),
            "END",
            "umask 022",
            f"INSTALL_K3S_SKIP_DOWNLOAD=true INSTALL_K3S_EXEC={role} sh ./install.sh",
            *(_AWAIT_READY if role == "server" else []),
        ]
    )


def uninstall_script(
    role: Literal["server", "agent"], files: Release, *, root: str = ""
) -> str:
    """Script that removes what `install_script` has put on the host, however far that has come.

    The last of the checked files is there before anything is installed: where it is not, a k3s on
    the host is somebody else's.
    """
    program = "k3s-uninstall.sh" if role == "server" else "k3s-agent-uninstall.sh"
    folder, binaries = f"{root}/var/lib/hybrid-k3s", f"{root}/usr/local/bin"
    return "\n".join(
        [
            "set -eu",
            f"if [ -e {folder}/{files.files[-1].name} ]; then",
            f"    if [ -x {binaries}/{program} ]; then {binaries}/{program}; fi",
            f"    rm -rf {binaries}/k3s {root}/etc/rancher/k3s {root}/var/lib/rancher/k3s",
            "fi",
            f"rm -rf {folder} {root}{STAGING}",
        ]
    )


def as_root(script: str, user: str) -> str:
    """Command that runs a script as root, for a user who is root or may use sudo unasked."""
    shell: Sequence[str] = ["sh", "-c", script]
    return shlex.join(shell if user == "root" else ["sudo", "-n", *shell])


def reachable(kubeconfig: str, address: str) -> str:
    """A kubeconfig as k3s writes it, with the server's address instead of the loopback."""
    return kubeconfig.replace("https://127.0.0.1:", f"https://{address}:")


_CURL = (
    "curl --proto =https --tlsv1.2 --fail --silent --show-error --location --retry 3 "
    '--output "$1.part" "$2"'
)
_AWAIT_READY = [
    "tries=0",
    "until k3s kubectl get --raw /readyz >/dev/null 2>&1; do",
    "    tries=$((tries + 1))",
    '    if [ "$tries" -ge 90 ]; then echo "k3s is not ready after 3 minutes" >&2; exit 1; fi',
    "    sleep 2",
    "done",
]
