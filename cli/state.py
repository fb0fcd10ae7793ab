"""What the engine's state says, without the cost of the Automation API."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from cli.environment import Environment, engine_root
from cli.errors import CommandError
from infra.faults import with_advice


def resource_counts(environment: Environment) -> dict[str, int]:
    """Layer → number of its resources, for the layers that were ever prepared.

    Raises
    ------
    CommandError
        The engine is missing, or its backend does not answer.
    """
    if not environment.project.exists():
        return {}
    stacks = _ask(environment, "stack", "ls")
    counts = {}
    for stack in stacks:
        name, _, layer = stack["name"].rpartition("/")[2].partition(".")
        if name == environment.name:
            # The stack itself counts as a resource wherever there is any.
            counts[layer] = max(0, stack.get("resourceCount", 0) - 1)
    return counts


def stack_outputs(environment: Environment, layer: str, *, secrets: bool = False) -> dict[str, Any]:
    """Outputs of a layer; secret ones are in clear only with `secrets`.

    Raises
    ------
    CommandError
        The layer was never prepared, or the engine does not answer.
    """
    name = f"{environment.name}.{layer}"
    if not environment.project.exists():
        raise CommandError(f"Layer {layer} of {environment.name} is not up: run hybrid up.")
    shown = ["--show-secrets"] if secrets else []
    return _ask(environment, "stack", "output", "--stack", name, *shown)


def _ask(environment: Environment, *arguments: str) -> Any:
    try:
        done = subprocess.run(
            [engine_root() / "bin" / "pulumi", *arguments, "--json", "--non-interactive"],
            cwd=environment.project,
            env=os.environ | environment.engine_variables(),
            capture_output=True,
            text=True,
            check=True,
        )
    except FileNotFoundError:
        raise CommandError("The Pulumi engine is not installed: run make setup.") from None
    except subprocess.CalledProcessError as error:
        told = f"The engine's backend does not answer: {error.stderr.strip()}"
        raise CommandError(with_advice(told)) from None
    return json.loads(done.stdout)
