"""hybrid link"""

from __future__ import annotations

import click

from cli.application import Application
from cli.options import environment_argument, json_option


@click.group()
def link() -> None:
    """Plan, watch and re-key the link between the sites and the cloud."""


@link.command()
@environment_argument
@click.option("--prefix", type=click.IntRange(8, 28), default=16, show_default=True,
              help="Length of the prefix of the networks to suggest.")
@click.option("--count", type=click.IntRange(1, 1000), default=3, show_default=True,
              help="How many networks to suggest.")
@json_option
@click.pass_obj
def plan(app: Application, environment: str, prefix: int, count: int, as_json: bool) -> None:
    """Show the networks of ENV and the next free ones for more sites."""
    from itertools import islice

    from infra.network_plan import free_networks

    settings = app.environment(environment).settings
    taken = settings.networks()
    names = {f"sites.{number}.cidr": site.name for number, site in enumerate(settings.sites)}
    free = list(islice(free_networks(taken.values(), prefix), count))
    if as_json:
        app.show_json({"networks": taken, "free": free})
        return
    app.show_table(
        ["network", "of", "addresses"],
        [[key, names.get(key, ""), network] for key, network in taken.items()],
    )
    click.echo(f"Free for more sites: {', '.join(map(str, free)) or f'no /{prefix} is'}.")
