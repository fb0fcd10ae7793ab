"""The `pulumi` of the project's environment: the engine of `make setup`, pointed at the right state.

It only sets variables (engine home with the offline plugins, backend, passphrase file) that the
environment named by ``--stack`` needs, then becomes the real engine.
"""

from __future__ import annotations

import os
import sys

from cli.application import Application
from cli.environment import engine_root, environment_of_stack


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
    variables = os.environ | environment.engine_variables()
    os.execve(engine, [str(engine), *sys.argv[1:]], variables)


def named_environment(arguments: list[str]) -> str:
    """Environment that ``--stack NAME``, ``--stack=NAME`` or ``-s NAME`` belongs to, else `local`."""
    for option, value in zip(arguments, [*arguments[1:], ""]):
        if option in ("--stack", "-s") and value:
            return environment_of_stack(value)
        if option.startswith("--stack="):
            return environment_of_stack(option.removeprefix("--stack="))
    return "local"
