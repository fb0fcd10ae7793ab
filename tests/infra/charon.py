"""strongSwan's daemon in a network namespace, for tests that give it a configuration."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PATH = f"{os.environ['PATH']}:/usr/sbin"
PLUGINS = Path("/usr/lib/ipsec/plugins")
# In user space, where the kernel has no ESP: packets go through a TUN device, wrapped in UDP.
LIBIPSEC = "kernel-libipsec"


def lacking(*plugins: str) -> str:
    """Why charon cannot run on this machine; empty when it can."""
    if os.geteuid() != 0:
        return "charon needs root"
    programs = [shutil.which(name, path=PATH) for name in ("charon-systemd", "swanctl")]
    files = [PLUGINS / f"libstrongswan-{plugin}.so" for plugin in ("openssl", *plugins)]
    if not all(programs) or not all(file.exists() for file in files):
        return "strongSwan is not installed: run tools/test-tools.sh"
    return ""


@dataclass(frozen=True)
class Charon:
    """A daemon that runs, and how `swanctl` reaches it."""

    folder: Path
    control: Path
    variables: dict[str, str]

    def load(self, configuration: str) -> subprocess.CompletedProcess[str]:
        """Let a configuration take the place of the one before."""
        file = self.folder / "swanctl.conf"
        file.write_text(configuration)
        return self.swanctl("--load-all", "--noprompt", "--file", str(file))

    def swanctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [shutil.which("swanctl", path=PATH), *arguments, "--uri", f"unix://{self.control}"],
            env=self.variables, capture_output=True, text=True,
        )  # fmt: skip


@contextmanager
def charon(space: str, folder: Path, *plugins: str) -> Iterator[Charon]:
    """Run a daemon in a namespace, with `plugins` before those of the kernel."""
    folder.mkdir(exist_ok=True)
    control = Path(f"/tmp/{space}.vici")  # a socket's path must be short
    settings = folder / "strongswan.conf"
    loaded = " ".join((*plugins, "kernel-netlink"))
    settings.write_text(
        "charon-systemd {\n"
        f"  load = nonce openssl kdf random {loaded} socket-default vici\n"
        f"  plugins {{ vici {{ socket = unix://{control} }} }}\n"
        "  journal { default = -1 }\n}\n"
        "swanctl { load = nonce openssl random }\n"
    )
    variables = os.environ | {"STRONGSWAN_CONF": str(settings)}
    program = shutil.which("charon-systemd", path=PATH)
    daemon = subprocess.Popen(["ip", "netns", "exec", space, program], env=variables)
    try:
        while daemon.poll() is None and not control.exists():
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(0.05)
        yield Charon(folder, control, variables)
    finally:
        daemon.terminate()
        daemon.wait(30)
        control.unlink(missing_ok=True)
