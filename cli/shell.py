"""The `pulumi` of the project's environment: the engine of `make setup`, pointed at the right state.

It sets the variables (engine home with the offline plugins, backend, passphrase file) that the
environment named by ``--stack`` needs, brings its stacks' salts, then becomes the real engine.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cli.application import Application
from cli.environment import Environment, engine_root, environment_of_stack
from cli.files import write_text


def main() -> None:
    """Run the engine with this process's arguments."""
    engine = engine_root() / "bin" / "pulumi"
    if not engine.exists():
        sys.exit("The Pulumi engine is not installed yet: run make setup.")
    try:
        environment = Application.from_process().environment(named_environment(sys.argv[1:]))
    except Exception as error:
        if not hasattr(error, "exit_code"):
            raise
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    if environment.is_local:
        bring_salts(environment, Path.cwd())
    variables = os.environ | environment.engine_variables()
    os.execve(engine, [str(engine), *sys.argv[1:]], variables)


def bring_salts(environment: Environment, start: Path) -> None:
    """Put the salts of the environment's passphrase beside the Pulumi.yaml that `start` is in.

    The engine looks for them there, where those of an older passphrase or of another home's
    environment of the same name may still lie: it would take the right passphrase for a wrong one.
    """
    folders = [start, *start.parents]
    project = next((folder for folder in folders if (folder / "Pulumi.yaml").exists()), None)
    if project is not None:
        for file in environment.project.glob("Pulumi.*.yaml"):
            write_text(project / file.name, file.read_text())


def named_environment(arguments: list[str]) -> str:
    """Environment that ``--stack NAME``, ``--stack=NAME`` or ``-s NAME`` belongs to, else `local`."""
    for option, value in zip(arguments, [*arguments[1:], ""]):
        if option in ("--stack", "-s") and value:
            return environment_of_stack(value)
        if option.startswith("--stack="):
            return environment_of_stack(option.removeprefix("--stack="))
    return "local"
