"""hybrid status"""

from __future__ import annotations

import click

from cli.application import Application
from cli.options import environment_argument, json_option


@click.command()
@environment_argument
@json_option
@click.pass_obj
def status(app: Application, environment: str, as_json: bool) -> None:
    """Show ENV's layers, servers, model channels and the model that serves."""
    from cli.survey import survey

    found = survey(app.environment(environment))
    if as_json:
        app.show_json({"environment": environment, **found})
        return
    app.show_table(
        ["layer", "resources"],
        [[layer, count or "down"] for layer, count in found["layers"].items()],
    )
    if found["servers"]:
        app.show_table(
            ["server", "state", "process", "address"],
            [[s["name"], s["state"], s["pid"] or "", s["address"] or ""] for s in found["servers"]],
        )
    if found["channels"]:
        app.show_table(["channel", "model"], list(found["channels"].items()))
    click.echo(f"Serving: {found['serving'] or 'nothing'}")
    for kind, digest in found["also_serving"].items():
        click.echo(f"Serving {kind}: {digest or 'nothing'}")
    if found["stale"]:
        click.echo(f"Without what users did of late: {found['stale']}")
    if found["trial"]:
        trial = found["trial"]
        share = "copies of all requests" if trial["share"] is None else f"{trial['share']:g} %"
        problem = f", but {trial['problem']}: hybrid up" if trial["problem"] else ""
        click.echo(f"On trial for {trial['channel']}: {trial['model']} with {share}{problem}")
