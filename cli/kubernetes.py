"""The Kubernetes API of a local environment: one that records, or a real one."""

from __future__ import annotations

import sys
import urllib.request
from pathlib import Path

from cli.environment import Environment
from cli.errors import CommandError
from cli.files import write_text
from cli.processes import Part
from infra.offline import kubernetes_server


def kubernetes_folder(environment: Environment) -> Path:
    """Where the API keeps its objects, and where its kubeconfig is."""
    return environment.folder / "kubernetes"


def kubernetes_parts(environment: Environment) -> list[Part]:
    """The servers that make up the API; their kubeconfig is written.

    Raises
    ------
    CommandError
        A real one is wanted and not built.
    """
    settings, folder = environment.settings, kubernetes_folder(environment)
    port = settings.ports.kubernetes
    if settings.kubernetes == "real":
        programs = kubernetes_server.find_programs()
        if programs is None:
            raise CommandError(
                f"The real Kubernetes API that {environment.name} wants is not built on this "
                "machine: run make kubernetes, or set kubernetes: recorded in its settings file."
            )
        kubernetes_server.prepare(folder, port)
        return [
            Part(
                program.name,
                program.command,
                {_setting(number - port): number for number in program.ports},
                lambda: kubernetes_server.is_ready(folder, port),
                {},
            )
            for program in kubernetes_server.commands(programs, folder, port)
        ]
    address = settings.kubernetes_endpoint
    write_text(folder / "kubeconfig", kubernetes_server.kubeconfig(address), mode=0o600)
    command = [sys.executable, "-m", "infra.offline.kubernetes_api"]
    return [
        Part(
            "kubernetes",
            [*command, "--port", str(port), "--folder", str(folder)],
            {"ports.kubernetes": port},
            lambda: _answers(f"{address}/healthz"),
            {},
        )
    ]


def _setting(distance: int) -> str:
    return f"ports.kubernetes (+{distance})" if distance else "ports.kubernetes"


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False
