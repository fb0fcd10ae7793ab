"""Run the programs of all shipped environments once, so that what they import is compiled.

An SDK imports a cloud's service only when a program names it, and all of that service then: the
modules' own imports do not tell which.
"""

from __future__ import annotations

from cli.layers import LAYERS
from stacks.capture import Capture
from stacks.settings import SHIPPED, load_settings


def main() -> None:
    """Import what the programs need; nothing is declared anywhere."""
    for file in sorted(SHIPPED.glob("*.yaml")):
        Capture(file.stem, load_settings(file.stem, [SHIPPED])).run(LAYERS)


if __name__ == "__main__":
    main()
