"""hybrid experiment"""

from __future__ import annotations

import click

from cli.application import Application
from cli.options import environment_option, json_option


@click.group()
def experiment() -> None:
    """Show what a canary or shadow has found, and record users' clicks."""


@experiment.command()
@click.argument("name", required=False)
@environment_option
@json_option
@click.pass_obj
def show(app: Application, name: str | None, environment: str, as_json: bool) -> None:
    """Compare both versions of trial NAME (default: the last one).

    The intervals hold at all times at once, with a chance of 95 %: they may be looked at as often
    as one likes, and a decision taken at any moment.
    """
    from dataclasses import asdict

    from cli import trials
    from cli.experiment import compare, stray_clicks, verdict

    target = app.environment(environment)
    trial = trials.find(target, name)
    found, strays = compare(target, trial), stray_clicks(target, trial)
    if as_json:
        app.show_json(asdict(trial) | {"rates": [asdict(each) for each in found],
                                       "verdict": verdict(found),
                                       "stray_clicks": strays})  # fmt: skip
        return
    click.echo(
        f"{trial.name}: {trial.model} for {trial.channel} with {trial.sharing} against "
        f"{trial.baseline}, {trial.ended or 'on'}"
    )
    app.show_table(
        ["rate", "production", "requests", "new", "requests", "difference, 95 %", "finding"],
        [
            [
                each.name,
                *_rate(each.production),
                *_rate(each.canary),
                f"{each.low:+.2%} to {each.high:+.2%}",
                each.finding,
            ]
            for each in found
        ],
    )
    if strays:
        click.echo(
            f"Recorded clicks that count nowhere, since the trial saw no such request: {strays:,}. "
            "Record the header X-Request-Id of the answer."
        )


@experiment.command(name="list")
@environment_option
@json_option
@click.pass_obj
def list_experiments(app: Application, environment: str, as_json: bool) -> None:
    """List the trials, the newest first."""
    from dataclasses import asdict

    from cli import trials

    found = trials.trials(app.environment(environment))[::-1]
    if as_json:
        app.show_json([asdict(trial) for trial in found])
        return
    app.show_table(
        ["trial", "model", "for", "share", "state"],
        [[t.name, t.model[7:19], t.channel, t.sharing, t.ended or "on"] for t in found],
    )


@experiment.command()
@click.argument("requests", nargs=-1, required=True, metavar="REQUEST…")
@environment_option
@click.pass_obj
def record(app: Application, requests: tuple[str, ...], environment: str) -> None:
    """Note that a user clicked an item of the answer to REQUEST, its header X-Request-Id."""
    from cli import trials

    target = app.environment(environment)
    trial = trials.record_clicks(target, requests)
    click.echo(f"Recorded for {trial.name}: {len(requests)}.")


def _rate(rate) -> tuple[str, str]:
    return ("none" if rate.rate is None else f"{rate.rate:.2%}"), f"{rate.requests:,}"
