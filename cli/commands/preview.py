"""hybrid preview"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cli.application import Application
from cli.options import environment_argument, json_option

if TYPE_CHECKING:
    from cli.changes import LayerResult
    from infra.policy.review import Finding


@click.command()
@environment_argument
@click.option("--markdown", is_flag=True, help="Print Markdown for a pull request.")
@json_option
@click.pass_obj
def preview(app: Application, environment: str, markdown: bool, as_json: bool) -> None:
    """Show what `hybrid up` would change in ENV; nothing is changed and no server is needed."""
    from cli.engine import Engine
    from cli.lock import environment_lock
    from cli.planning import capture, policy_findings
    from cli.preflight import require_account

    target = app.environment(environment)
    with environment_lock(target.folder, "hybrid preview"), app.progress("preview") as progress:
        require_account(target)
        engine = Engine(target)
        engine.prepare()
        results = engine.preview(progress)
    findings = policy_findings(target, capture(target).declared)
    show(app, environment, results, findings, markdown, as_json)


def show(
    app: Application,
    environment: str,
    results: list[LayerResult],
    findings: list[Finding],
    markdown: bool,
    as_json: bool,
) -> None:
    """Print a plan: for people, as Markdown, or for programs."""
    from dataclasses import asdict

    changes = [change for result in results for change in result.changes]
    if as_json:
        policy = [asdict(finding) for finding in findings]
        changed = [asdict(change) for change in changes]
        app.show_json({"environment": environment, "changes": changed, "policy": policy})
        return
    if markdown:
        from cli.markdown import plan_markdown

        click.echo(plan_markdown(environment, results, findings))
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


def _counted(results: list[LayerResult]) -> str:
    return f"{sum(result.resources for result in results)} resources in {len(results)} layers"
