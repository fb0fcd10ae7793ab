"""hybrid plan"""

from __future__ import annotations

import click

from cli.application import Application
from cli.options import environment_argument, json_option


@click.command()
@environment_argument
@click.option("--fast", is_flag=True, help="Compare with the state only; start no engine.")
@click.option("--markdown", is_flag=True, help="Print Markdown for a pull request.")
@json_option
@click.pass_context
def plan(
    ctx: click.Context, environment: str, fast: bool, markdown: bool, as_json: bool
) -> None:
    """Show what `hybrid up` would change in ENV, and the policies it breaks.

    Without --fast this is `hybrid preview`. With it, the programs run in this process and are
    compared with the state: secrets count as unchanged, and no provider is asked.
    """
    from cli.commands.preview import preview, show

    if not fast:
        ctx.invoke(preview, environment=environment, markdown=markdown, as_json=as_json)
        return
    from cli.planning import capture, policy_findings

    app: Application = ctx.obj
    target = app.environment(environment)
    captured = capture(target)
    findings = policy_findings(target, captured.declared)
    show(app, environment, captured.layers(), findings, markdown, as_json)
