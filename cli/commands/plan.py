"""hybrid plan"""

from __future__ import annotations

from pathlib import Path

import click

from cli.application import Application
from cli.options import environment_argument, json_option, prices_option


@click.command()
@environment_argument
@click.option("--fast", is_flag=True, help="Compare with the state only; start no engine.")
@click.option("--markdown", is_flag=True, help="Print Markdown for a pull request.")
@prices_option
@json_option
@click.pass_context
def plan(
    ctx: click.Context,
    environment: str,
    fast: bool,
    markdown: bool,
    prices: Path | None,
    as_json: bool,
) -> None:
    """Show what `hybrid up` would change in ENV, and the policies it breaks.

    Without --fast this is `hybrid preview`. With it, the programs run in this process and are
    compared with the state: secrets count as unchanged, and no provider is asked.
    """
    from cli.commands.preview import preview, show

    if not fast:
        ctx.invoke(
            preview, environment=environment, markdown=markdown, prices=prices, as_json=as_json
        )
        return
    from cli.planning import assess, capture
    from infra.cost import read_prices

    app: Application = ctx.obj
    target = app.environment(environment)
    captured = capture(target)
    assessment = assess(target, captured, read_prices(prices))
    show(app, environment, captured.layers(), assessment, markdown, as_json)
