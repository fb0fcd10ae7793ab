"""hybrid cost"""

from __future__ import annotations

from pathlib import Path

import click

from cli.application import Application
from cli.options import (
    MODEL_MIB,
    FiniteRange,
    environment_argument,
    json_option,
    prices_option,
)


@click.command()
@environment_argument
@prices_option
@click.option("--model-mib", type=FiniteRange(min=0), default=MODEL_MIB, show_default=True,
              help="Size of the model that a federated round moves.")  # fmt: skip
@json_option
@click.pass_obj
def cost(
    app: Application, environment: str, prices: Path | None, model_mib: float, as_json: bool
) -> None:
    """Show what ENV costs a month: now, and after `hybrid up`; each as a range."""
    from dataclasses import asdict

    from cli.planning import capture, costs
    from infra.cost import BUCKETS, prices_used, read_prices, round_sentence, round_traffic

    target = app.environment(environment)
    table = read_prices(prices)
    captured = capture(target)
    before, after = costs(target, captured, table)
    sites, cloud = len(target.settings.sites), target.settings.gpu_pool.cloud
    guessed = sorted(prices_used(captured.declared, table, cloud) & table.from_memory)
    gigabytes, dollars = round_traffic(sites, int(model_mib * 2**20), table, cloud)
    if as_json:
        app.show_json(
            {
                "environment": environment,
                "prices": table.as_of,
                "prices_from_memory": guessed,
                "now": {"low": before.low, "high": before.high},
                "after": {"low": after.low, "high": after.high},
                "items": [asdict(item) for item in after.items],
                "federated_round": {"gigabytes": gigabytes, "egress_usd": dollars},
            }
        )
        return
    rows = [[item.layer, item.name, item.what, item.month] for item in after.items]
    app.show_table(["layer", "resource", "what", "USD a month"], rows)
    click.echo(f"Now:      {before.low:.2f} to {before.high:.2f} USD a month.")
    click.echo(f"After up: {after.low:.2f} to {after.high:.2f} USD a month.")
    click.echo(round_sentence(sites, model_mib, table, cloud))
    click.echo(
        f"Prices of {table.as_of}. By use, not in it: NAT {table.traffic.nat} and egress "
        f"{table.traffic.egress[cloud]} a GB, buckets {table.storage[BUCKETS[cloud]]} a GiB."
    )
    if guessed:
        click.echo(f"From memory, without a source: {', '.join(guessed)}.")
    if target.is_local:
        click.echo("Emulators bill nothing: this is what the same would cost in the clouds.")
