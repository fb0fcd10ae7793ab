"""A folder that stands for a GPU machine, and its cloud's metadata service, for tests of its boot."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml

from infra import k3s, node_boot

TOKEN = "K10hash::node:the-token"
INSTALLER, BINARY = b"#!/bin/sh\nenv > \"$RECORD\"\n", b"#!/bin/sh\nexit 0\n"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


CLUSTER = node_boot.Cluster(
    servers=["10.61.0.10", "10.61.0.11"],
    networks=["10.61.0.0/16", "10.62.0.0/16"],
    release=k3s.release(
        "v1.33.1+k3s1", "amd64", installer_sha256=sha256(INSTALLER), binary_sha256=sha256(BINARY)
    ),
)


class Metadata(BaseHTTPRequestHandler):
    """A metadata service; subclasses say how a cloud's own is asked.

    Its server has `values` by path, `events` that are called with each path asked for, and in
    `told` the bodies that it was sent.
    """

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def tell(self, name: str) -> None:
        """Answer with a value, or that there is none."""
        value = self.server.values.get(name)
        for event in self.server.events:
            event(self.path)
        self.answer(404 if value is None else 200, value or "")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@dataclass
class Machine:
    """A machine's root, with programs that note how they are called."""

    root: Path
    scripts: Path
    service: ThreadingHTTPServer

    def program(self, name: str, body: str = "") -> None:
        file = self.root / "programs" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f'#!/bin/sh\necho "{name} $*" >> "{self.root}/calls"\n{body}\n')
        file.chmod(0o755)

    def start(self, script: str, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            [self.scripts / script, *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={
                "PATH": f"{self.root / 'programs'}{os.pathsep}{os.environ['PATH']}",
                "ROOT": str(self.root),
                "IMDS": f"http://127.0.0.1:{self.service.server_port}",
                "RECORD": str(self.root / "record"),
            },
        )  # fmt: skip

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess:
        started = self.start(script, *arguments)
        try:
            told, complained = started.communicate(timeout=60)
        finally:
            started.kill()
        return subprocess.CompletedProcess(started.args, started.returncode, told, complained)

    @property
    def calls(self) -> list[str]:
        file = self.root / "calls"
        return file.read_text().splitlines() if file.exists() else []

    @property
    def joined(self) -> dict:
        """k3s's configuration, as k3s reads a key that ends with a plus."""
        folder = self.root / "etc/rancher/k3s"
        told = yaml.safe_load((folder / "config.yaml").read_text())
        own = yaml.safe_load((folder / "config.yaml.d/node.yaml").read_text())
        for key, value in own.items():
            told[key.rstrip("+")] = told.get(key.rstrip("+"), []) + value if "+" in key else value
        return told


def unpack(user_data: str, folder: Path) -> Path:
    """Write the files of cloud-init into one folder, as a machine has them."""
    for file in yaml.safe_load(user_data)["write_files"]:
        target = folder / Path(file["path"]).name
        target.write_text(file["content"])
        target.chmod(int(file["permissions"], 8))
    return folder


@contextmanager
def booted(
    root: Path,
    membership: node_boot.Membership,
    metadata: type[Metadata],
    values: dict[str, str],
    elsewhere: str = "",
) -> Iterator[Machine]:
    """A machine with its cloud's service, to which no server of the cluster but one answers.

    Parameters
    ----------
    elsewhere
        More cases of what curl finds, as lines of a shell's `case "$*" in`.
    """
    service = ThreadingHTTPServer(("127.0.0.1", 0), metadata)
    service.values, service.events, service.told = dict(values), [], []
    threading.Thread(target=service.serve_forever, daemon=True).start()
    scripts = root / "scripts"
    scripts.mkdir()
    unpack(node_boot.user_data(CLUSTER, membership), scripts)
    (root / "etc/hybrid").mkdir(parents=True)
    text = (scripts / "node.env").read_text()
    text = text.replace(f"WATCH_SECONDS={membership.watch_seconds}", "WATCH_SECONDS=0")
    (root / "etc/hybrid/node.env").write_text(text)
    (scripts / "install-k3s.sh").write_text(
        node_boot.install_script(CLUSTER.release, membership, root=str(root))
    )
    (root / "install.sh").write_bytes(INSTALLER)
    (root / "k3s").write_bytes(BINARY)
    made = Machine(root, scripts, service)
    real = shutil.which("curl")
    # Servers of the cluster and downloads are not there; the metadata service is.
    made.program(
        "curl",
        f'case "$*" in\n*169.254*) exit 7;;\n*127.0.0.1*) exec {real} "$@";;\n'
        f"*10.61.0.10*) exit 28;;\n*10.61.0.11*) exit 0;;\n{elsewhere}esac\n"
        'for word; do case "$before" in --output) target=$word;; esac; before=$word; done\n'
        f'cp "{root}/$(basename "$before")" "$target"',
    )
    for name in ("k3s", "systemctl"):
        made.program(name)
    try:
        yield made
    finally:
        service.shutdown()
        service.server_close()
