"""hybrid federate"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from cli.application import Application, Progress
from cli.commands.train import show_metrics
from cli.options import FiniteRange, environment_option, json_option, prices_option
from cli.strategy_options import strategy_options

if TYPE_CHECKING:
    from cli.environment import Environment
    from cli.rounds import Observe


@click.group(invoke_without_command=True)
@environment_option
@click.option("--from", "reference", default="candidate", show_default=True, metavar="MODEL",
              help="Stored model to start from: a channel, a digest or its first digits.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--local-epochs", type=click.IntRange(1), default=1, show_default=True,
              help="Passes over its own data that a site makes in a round.")
@click.option("--site", "sites", multiple=True, metavar="NAME",
              help="A site that takes part, once for each; by default all do.")
@strategy_options
@click.option("--dp-epsilon", type=FiniteRange(0), default=0.0,
              help="Budget of user-level differential privacy, over all that went into the model; "
                   "0 for none.")
@click.option("--dp-delta", type=FiniteRange(0, 1, min_open=True, max_open=True),
              default=1e-6, show_default=True, help="δ that goes with --dp-epsilon.")
@click.option("--dp-clip", type=FiniteRange(0, min_open=True), default=1.0, show_default=True,
              help="Largest norm of what a user adds to a step of private training.")
@click.option("--round-timeout", type=FiniteRange(0, min_open=True), default=1800.0,
              show_default=True, metavar="SECONDS",
              help="A site that is silent for as long is left out of the round.")
@click.option("--quorum", type=FiniteRange(0, 1, min_open=True), default=0.5,
              show_default=True, help="Share of the sites without which no round is closed.")
@click.option("--at-once", type=click.IntRange(0), default=0, metavar="SITES",
              help="So many sites at most are at work at a time, the others wait for their turn; 0 "
                   "for all.")
@click.option("--secure", type=click.Choice(["none", "masks", "ckks"]), default="none",
              show_default=True,
              help="Sum the sites' changes up under masks or encrypted (CKKS), so that the server "
                   "learns the sum alone.")
@click.option("--secure-rows", type=FiniteRange(0, 1, min_open=True), default=1.0,
              show_default=True,
              help="Share of each table's rows that a secure sum is of, others each round.")
@click.option("--compression", type=click.Choice(["none", "rows", "int8", "signs", "topk", "auto"]),
              default="none", show_default=True,
              help="What crosses of a change: all, the rows that changed, these as int8 or "
              "as signs, or the largest elements; auto takes the mildest that stays in the budget.")
@click.option("--share", type=FiniteRange(0, 1, min_open=True), default=0.1,
              show_default=True, help="Share of the changed elements that topk sends.")
@click.option("--budget-bytes", type=FiniteRange(0, min_open=True), metavar="BYTES",
              help="Most that the whole run may move (with --compression auto).")
@click.option("--budget-seconds", type=FiniteRange(0, min_open=True), metavar="SECONDS",
              help="Longest that the whole run may take.")
@click.option("--budget-cost", type=FiniteRange(0, min_open=True), metavar="USD",
              help="Most that the run's egress may cost.")
@click.option("--bandwidth", type=FiniteRange(0, min_open=True), metavar="MBIT",
              help="Mbit/s to each site, as hybrid link status tells; else as earlier rounds went.")
@prices_option
@click.option("--dry-run", is_flag=True, help="Show what the run would take, and stop.")
@click.option("--wandb", "wandb_project", metavar="PROJECT",
              help="Report to Weights & Biases as well; TensorBoard is written in any case.")
@json_option
@click.pass_context
def federate(
    ctx: click.Context,
    environment: str,
    reference: str,
    sites: tuple[str, ...],
    compression: str,
    share: float,
    budget_bytes: float | None,
    budget_seconds: float | None,
    budget_cost: float | None,
    bandwidth: float | None,
    prices: Path | None,
    dry_run: bool,
    wandb_project: str | None,
    as_json: bool,
    **how,
) -> None:
    """Train a stored model on the sites' own users through the running SuperLink.

    Ctrl-C leaves a run that the same command, or hybrid federate resume, goes on with.
    """
    if ctx.invoked_subcommand is not None:
        given = [name for name in ctx.params
                 if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]  # fmt: skip
        if given:
            raise click.UsageError(
                f"Options of a new run do not go with {ctx.invoked_subcommand}: put its own after it."
            )
        return
    from dataclasses import asdict

    from cli import federation
    from cli.federation_plan import Wish, show_plan
    from federation.planner import Budget

    app: Application = ctx.obj
    budget = Budget(budget_bytes, budget_seconds, budget_cost)
    if (compression == "auto") is (budget == Budget()):
        raise click.UsageError(
            "--compression auto and a budget go together: add --compression auto, or one of "
            "--budget-bytes, --budget-seconds and --budget-cost."
        )
    speed = None if bandwidth is None else bandwidth * 1e6 / 8
    wish = Wish(compression, share, budget, speed, prices)
    target = app.environment(environment)
    if dry_run:
        planned = federation.plan(target, reference, how, wish, sorted(sites) or None)
        if as_json:
            app.show_json(asdict(planned))
        else:
            show_plan(app, planned)
        return
    with _at_work(app, target, "hybrid federate") as (progress, observe):
        trained = federation.federate(
            target,
            reference,
            how,
            progress,
            wish=wish,
            announce=None if as_json else lambda planned: show_plan(app, planned),
            observe=observe,
            wandb_project=wandb_project,
            sites=sorted(sites) or None,
        )
    _show(app, trained, as_json)


@federate.command()
@click.argument("run", required=False)
@environment_option
@json_option
@click.pass_obj
def resume(app: Application, run: str | None, environment: str, as_json: bool) -> None:
    """Go on with RUN, or with the newest run that was interrupted."""
    from cli import federation

    target = app.environment(environment)
    with _at_work(app, target, "hybrid federate resume") as (progress, observe):
        trained = federation.resume(target, run, progress, observe=observe)
    _show(app, trained, as_json)


@federate.command()
@environment_option
@json_option
@click.pass_obj
def history(app: Application, environment: str, as_json: bool) -> None:
    """List the runs, the newest first."""
    from dataclasses import asdict
    from datetime import datetime

    from cli.federation import runs_folder
    from federation.history import past_runs

    runs = past_runs(runs_folder(app.environment(environment)))
    if as_json:
        app.show_json([asdict(run) for run in runs])
        return
    app.show_table(
        ["run", "started", "state", "rounds", "strategy", "sites", "NDCG@10", "MB"],
        [
            [
                run.name,
                datetime.fromtimestamp(run.started).strftime("%Y-%m-%d %H:%M"),
                run.state,
                f"{len(run.rounds)} of {run.settings['rounds']}",
                run.settings["strategy"],
                len(run.settings["sites"]),
                f"{run.records[-1]['metrics']['NDCG@10']:.4f}" if run.records else "",
                f"{sum(r['bytes_down'] + r['bytes_up'] for r in run.rounds) / 1e6:.1f}",
            ]
            for run in runs
        ],
    )


@federate.command()
@click.argument("run", required=False)
@environment_option
@json_option
@click.pass_obj
def show(app: Application, run: str | None, environment: str, as_json: bool) -> None:
    """Show the settings and the rounds of RUN, by default of the newest."""
    from dataclasses import asdict

    from cli.federation import runs_folder
    from cli.rounds import table_of
    from federation.history import find_run

    found = find_run(runs_folder(app.environment(environment)), run)
    if as_json:
        app.show_json(asdict(found))
        return
    app.show_table(
        ["setting", "value"],
        [
            [name, ", ".join(map(str, value)) if isinstance(value, list) else value]
            for name, value in found.settings.items()
            if name != "folder"
        ],
    )
    app.show_table(*table_of(found.records))
    for record in found.rounds:
        for site, why in record["refused"].items():
            click.echo(f"Round {record['round']} refused {site}: {why}")
        for why in record.get("suspects", {}).values():
            click.echo(f"Round {record['round']}: {why}")
    done = f"{len(found.rounds)} of {found.settings['rounds']} rounds"
    click.echo(f"{found.name} is {found.state}: {done}.")


@federate.command()
@click.argument("site")
@click.argument("run", required=False)
@environment_option
@json_option
@click.pass_obj
def forget(
    app: Application, site: str, run: str | None, environment: str, as_json: bool
) -> None:
    """Repeat RUN, or the newest, without SITE: a model as if the site had never been in the run."""
    from cli import federation

    target = app.environment(environment)
    with _at_work(app, target, "hybrid federate forget") as (progress, observe):
        trained = federation.forget(target, site, run, progress, observe=observe)
    _show(app, trained, as_json)


@federate.command()
@click.argument("run", required=False)
@environment_option
@json_option
@click.pass_obj
def contribution(app: Application, run: str | None, environment: str, as_json: bool) -> None:
    """Tell what each round of RUN, or of the newest, would have lost without each site.

    In NDCG@10 on the held-out events of all the run's sites; the run must keep its updates.
    """
    from cli import federation

    worth = federation.contribution(app.environment(environment), run)
    if as_json:
        app.show_json(worth)
        return
    sites = sorted({site for found in worth for site in found})
    app.show_table(
        ["round", *sites],
        [
            [number, *(f"{found[site]:+.4f}" if site in found else "" for site in sites)]
            for number, found in enumerate(worth, start=1)
        ],
    )


@contextmanager
def _at_work(
    app: Application, target: Environment, command: str
) -> Iterator[tuple[Progress, Observe]]:
    """Hold the environment for a command that runs rounds, and show them as they come."""
    from cli.lock import environment_lock
    from cli.rounds import live_rounds

    with environment_lock(target.folder, command), live_rounds(app, "federate") as listeners:
        yield listeners


def _show(app: Application, trained, as_json: bool) -> None:
    """What a federation made: its rounds, its metrics, its model."""
    from dataclasses import asdict

    from cli.rounds import table_of

    if as_json:
        app.show_json(asdict(trained))
        return
    app.show_table(*table_of(trained.rounds))
    show_metrics(app, trained)
    click.echo(trained.gate)
    click.echo(f"Model {trained.digest} is the candidate after {trained.seconds:.0f} s.")
