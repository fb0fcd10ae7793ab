"""hybrid preview"""

from __future__ import annotations

import click

from cli.application import Application
from cli.options import environment_argument, json_option


@click.command()
@environment_argument
@click.option("--markdown", is_flag=True, help="Print Markdown for a pull request.")
@json_option
@click.pass_obj
def preview(app: Application, environment: str, markdown: bool, as_json: bool) -> None:
    """Show what `hybrid up` would change in ENV; nothing is changed and no server is needed."""
    from dataclasses import asdict

    from cli.engine import Engine
    from cli.lock import environment_lock

    target = app.environment(environment)
    with environment_lock(target.folder, "hybrid preview"), app.progress("preview") as progress:
        engine = Engine(target)
        engine.prepare()
        results = engine.preview(progress)
    changes = [change for result in results for change in result.changes]
    if as_json:
        app.show_json({"environment": environment, "changes": [asdict(c) for c in changes]})
    elif markdown:
        click.echo(as_markdown(environment, results))
    elif not changes:
        click.echo(f"Nothing to change in {environment}: {_counted(results)}.")
    else:
        app.show_table(
            ["layer", "operation", "type", "name", "properties"],
            [[c.layer, c.operation, c.type, c.name, ", ".join(c.properties)] for c in changes],
        )
        click.echo(f"{len(changes)} to change of {_counted(results)}.")


def as_markdown(environment: str, results: list) -> str:
    """Changes as a Markdown section a layer, replacements and deletions first and in bold."""
    lines = [f"## `hybrid preview {environment}`", ""]
    for result in results:
        lines += [f"### {result.layer}: {len(result.changes)} of {result.resources} change", ""]
        if not result.changes:
            continue
        lines += ["| operation | type | name | properties |", "| --- | --- | --- | --- |"]
        risky = ("replace", "delete")
        for c in sorted(result.changes, key=lambda change: change.operation not in risky):
            operation = f"**{c.operation}**" if c.operation in risky else c.operation
            properties = ", ".join(f"`{p}`" for p in c.properties)
            lines.append(f"| {operation} | `{c.type}` | {c.name} | {properties} |")
        lines.append("")
    return "\n".join(lines)


def _counted(results: list) -> str:
    return f"{sum(result.resources for result in results)} resources in {len(results)} layers"
