"""hybrid link"""

from __future__ import annotations

from pathlib import Path

import click

from cli.application import Application
from cli.options import environment_argument, environment_option, json_option

site_option = click.option("--site", metavar="NAME", help="One site only; all by default.")


@click.group()
def link() -> None:
    """Plan, watch and re-key the link between the sites and the cloud."""


@link.command()
@environment_argument
@click.option("--prefix", type=click.IntRange(8, 28), default=16, show_default=True,
              help="Length of the prefix of the networks to suggest.")
@click.option("--count", type=click.IntRange(1, 1000), default=3, show_default=True,
              help="How many networks to suggest.")
@click.option("--check", "checked", is_flag=True,
              help="Check NAT, peering and routes of what the programs declare; AWS only.")
@json_option
@click.pass_obj
def plan(
    app: Application, environment: str, prefix: int, count: int, checked: bool, as_json: bool
) -> None:
    """Show the networks of ENV and the next free ones for more sites."""
    from dataclasses import asdict
    from itertools import islice

    from cli.errors import CommandError
    from cli.network import check_network, counted
    from infra.network_plan import free_networks

    target = app.environment(environment)
    settings = target.settings
    checks = check_network(target) if checked else []
    broken = [check.statement for check in checks if not check.holds]
    taken = settings.networks()
    names = {f"sites.{number}.cidr": site.name for number, site in enumerate(settings.sites)}
    free = list(islice(free_networks(taken.values(), prefix), count))
    if as_json:
        found = [asdict(check) for check in checks]
        app.show_json({"networks": taken, "free": free} | ({"checks": found} if checked else {}))
    else:
        app.show_table(
            ["network", "of", "addresses"],
            [[key, names.get(key, ""), network] for key, network in taken.items()],
        )
        click.echo(f"Free for more sites: {', '.join(map(str, free)) or f'no /{prefix} is'}.")
        if checked and not broken:
            click.echo(f"Checks: {counted(checks)}; all hold.")
    if broken:
        told = "".join(f"\n  {statement}" for statement in broken)
        raise CommandError(f"Of {len(checks)} checks these do not hold:{told}")


@link.command()
@environment_argument
@site_option
@click.option("--patience", type=click.IntRange(0), default=600, show_default=True,
              help="Seconds to wait for a tunnel before giving up.")
@json_option
@click.pass_obj
def rotate(
    app: Application, environment: str, site: str | None, patience: int, as_json: bool
) -> None:
    """Give the tunnels of ENV new keys, one at a time; the first time this brings them up."""
    from cli.link import aws_told, chosen_sites, open_link
    from cli.link import rotate as rotate_keys
    from cli.lock import environment_lock

    target = app.environment(environment)
    target.require_cloud("hybrid link rotate")
    generations = {}
    with environment_lock(target.folder, "hybrid link rotate"), aws_told():
        for number, each in chosen_sites(target, site):
            file = target.folder / "link" / f"{each.name}.json"
            generations[each.name] = rotate_keys(
                file, open_link(target, number, each), patience,
                lambda text, name=each.name: app.say(f"{name}: {text}"),
            )  # fmt: skip
    if as_json:
        app.show_json(generations)
        return
    for name, generation in generations.items():
        click.echo(f"{name}: both tunnels have the keys of generation {generation}.")


@link.command()
@environment_argument
@site_option
@json_option
@click.pass_obj
def status(app: Application, environment: str, site: str | None, as_json: bool) -> None:
    """Measure each tunnel of ENV: handshake age, latency, throughput."""
    from cli.link import aws_told, chosen_sites, measure, open_link

    target = app.environment(environment)
    target.require_cloud("hybrid link status")
    with aws_told():
        found = [
            {"site": each.name, **tunnel}
            for number, each in chosen_sites(target, site)
            for tunnel in measure(open_link(target, number, each))
        ]
    if as_json:
        app.show_json(found)
        return
    units = {"handshake_age": "s", "latency": "ms", "throughput": "Mbit/s"}
    app.show_table(
        ["site", "tunnel", "state", *(key.replace("_", " ") for key in units)],
        [
            [row["site"], row["tunnel"], "up" if row["up"] else "down"]
            + ["-" if row[key] is None else f"{row[key]} {unit}" for key, unit in units.items()]
            for row in found
        ],
    )
    of_link = target.settings.link
    if of_link.driver == "ipsec" and of_link.echo is None:
        click.echo("Latency and throughput are measured to link.echo, which the settings lack.")


@link.command()
@click.argument("site")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@environment_option
@click.pass_obj
def config(app: Application, site: str, file: Path, environment: str) -> None:
    """Write SITE's strongSwan configuration with its keys to FILE, which only you can read."""
    from cli.errors import CommandError
    from cli.files import write_text
    from cli.link import chosen_sites
    from cli.state import stack_outputs
    from infra.ipsec import render_swanctl

    target = app.environment(environment)
    settings = target.settings
    [(_, chosen)] = chosen_sites(target, site)
    if settings.link.driver != "ipsec":
        raise CommandError(
            f"{environment} has link.driver {settings.link.driver!r}, whose keys are in no file: "
            "hybrid link rotate sets both ends up.",
            2,
        )
    if settings.gpu_pool.cloud == "gcp":
        raise CommandError(
            f"{environment} has gpu_pool.cloud 'gcp', whose tunnels need BGP, which no file of ours "
            f"configures: pulumi stack output tunnels --show-secrets --stack {environment}.link "
            "has what your gateway must know.",
            2,
        )
    tunnels = stack_outputs(target, "link", secrets=True).get("tunnels", {}).get(site)
    if not tunnels:
        raise CommandError(f"Site {site} has no VPN connection yet: run hybrid up.")
    try:
        text = render_swanctl(
            site, str(chosen.public_ip), str(chosen.cidr), str(settings.network.vpc_cidr), tunnels
        )
    except ValueError as error:
        raise CommandError(f"No file is written: {error}.") from None
    write_text(file, text, mode=0o600)
    click.echo(f"Wrote {file}: load it with swanctl --load-all on the gateway of {site}.")
