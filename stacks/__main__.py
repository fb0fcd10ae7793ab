"""The Pulumi program of all stacks: `<environment>.<layer>` names the settings and the module."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

# The engine puts this folder on the path, where `platform` and other names would hide modules of
# the standard library; the project's folder is what imports start from.
FOLDER = Path(__file__).resolve().parent
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != FOLDER]
sys.path.insert(0, str(FOLDER.parent))

import pulumi  # noqa: E402

from stacks.settings import SettingsError, load_settings  # noqa: E402

LAYERS = ("private", "cloud", "link", "platform")


def main() -> None:
    """Run the program of the stack that the engine works on."""
    environment, _, layer = pulumi.get_stack().partition(".")
    if layer not in LAYERS:
        raise pulumi.RunError(
            f"Stack {pulumi.get_stack()!r} names no layer: it must be <environment>.<layer> with "
            f"one of {', '.join(LAYERS)}."
        )
    try:
        settings = load_settings(environment)
    except SettingsError as error:
        raise pulumi.RunError(str(error)) from None
    importlib.import_module(f"stacks.{layer}").program(environment, settings)


# The language host of tools/language-python starts a policy pack in the program's folder instead of
# the pack's, with the engine's address as the one argument; a program gets none.
if len(sys.argv) == 2:
    from infra.policy.pack import start

    start()
else:
    main()
