"""hybrid preview"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.application import Application
from cli.options import environment_argument, json_option, prices_option

if TYPE_CHECKING:
    from cli.changes import LayerResult
    from cli.planning import Assessment


@click.command()
@environment_argument
@click.option("--markdown", is_flag=True, help="Print Markdown for a pull request.")
@prices_option
@json_option
@click.pass_obj
def preview(
    app: Application, environment: str, markdown: bool, prices: Path | None, as_json: bool
) -> None:
    """Show what `hybrid up` would change in ENV; nothing is changed and no server is needed."""
    from cli.engine import Engine
    from cli.lock import environment_lock
    from cli.planning import assess, capture
    from cli.preflight import require_account
    from infra.cost import read_prices

    target = app.environment(environment)
    table = read_prices(prices)
    with environment_lock(target.folder, "hybrid preview"), app.progress("preview") as progress:
        require_account(target)
        engine = Engine(target)
        engine.prepare()
        results = engine.preview(progress)
    show(app, environment, results, assess(target, capture(target), table), markdown, as_json)


def show(
    app: Application,
    environment: str,
    results: list[LayerResult],
    assessment: Assessment,
    markdown: bool,
    as_json: bool,
) -> None:
    """Print a plan: for people, as Markdown, or for programs."""
    from dataclasses import asdict

    changes = [change for result in results for change in result.changes]
    findings, before, after = assessment.findings, assessment.before, assessment.after
    if as_json:
        app.show_json(
            {
                "environment": environment,
                "changes": [asdict(change) for change in changes],
                "policy": [asdict(finding) for finding in findings],
                "monthly_usd": {
                    "before": [before.low, before.high],
                    "after": [after.low, after.high],
                    "budget": assessment.budget,
                },
            }
        )
        return
    if markdown:
        from cli.markdown import plan_markdown

        click.echo(plan_markdown(environment, results, assessment))
        return
    if changes:
        app.show_table(
            ["layer", "operation", "type", "name", "properties"],
            [[c.layer, c.operation, c.type, c.name, ", ".join(c.properties)] for c in changes],
        )
        click.echo(f"{len(changes)} to change of {_counted(results)}.")
    else:
        click.echo(f"Nothing to change in {environment}: {_counted(results)}.")
    if findings:
        app.show_table(
            ["rule", "severity", "resource", "violation"],
            [[f.rule, f.severity, f.resource, f.told] for f in findings],
        )
    blocking = sum(finding.blocks for finding in findings)
    click.echo(
        f"Policies: {len(findings)} violations, {blocking} of them stop `hybrid up`."
        if findings
        else "Policies: all hold."
    )
    click.echo(
        f"A month: {before.low:.2f} to {before.high:.2f} USD now, "
        f"{after.low:.2f} to {after.high:.2f} USD after."
    )
    if assessment.over_budget:
        click.echo(assessment.over_budget)


def _counted(results: list[LayerResult]) -> str:
    return f"{sum(result.resources for result in results)} resources in {len(results)} layers"
