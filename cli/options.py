"""Arguments and options that several commands share."""

from __future__ import annotations

import math
from pathlib import Path

import click

# Size of the model whose federated round a plan prices.
MODEL_MIB = 64


class FiniteRange(click.FloatRange):
    """Numbers of a range; `nan`, which no bound keeps out, and `inf` are none."""

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


def _complete_environment(ctx: click.Context, param: click.Parameter, typed: str) -> list[str]:
    from stacks.settings import known_environments

    return [name for name in known_environments() if name.startswith(typed)]


environment_argument = click.argument(
    "environment", metavar="[ENV]", default="local", shell_complete=_complete_environment
)
environment_option = click.option(
    "--environment", "-e", metavar="ENV", default="local", show_default=True,
    shell_complete=_complete_environment, help="Environment to work on.",
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
output_option = click.option(
    "--output", "-o", type=click.Path(path_type=Path, dir_okay=False),
    help="File to write; standard output without it.",
)  # fmt: skip
prices_option = click.option(
    "--prices", type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A table of prices instead of infra/prices.yaml.",
)  # fmt: skip
