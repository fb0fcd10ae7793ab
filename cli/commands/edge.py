"""hybrid edge"""

from __future__ import annotations

from pathlib import Path

import click

from cli.application import Application
from cli.options import environment_option, json_option

site_option = click.option("--site", required=True, metavar="NAME", help="Whose hosts.")


@click.group()
def edge() -> None:
    """Serve an edge bundle on a site's hosts."""


@edge.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@site_option
@click.option("--port", type=click.IntRange(1024, 65535), default=8080, show_default=True,
              help="On each host's loopback.")  # fmt: skip
@environment_option
@click.pass_obj
def install(app: Application, file: Path, site: str, port: int, environment: str) -> None:
    """Bring bundle FILE (of `hybrid deploy --edge FILE`) to a site's hosts and serve it there.

    A host on which it does not answer serves the one before again, and so do the others then.
    """
    from cli import edge_sites
    from cli.lock import environment_lock

    target = app.environment(environment)
    with environment_lock(target.folder, "hybrid edge"):
        model = edge_sites.install(target, site, file, port, app.say)
    click.echo(f"Model {model} answers on the hosts of {site}, at http://127.0.0.1:{port} there.")


@edge.command()
@site_option
@environment_option
@json_option
@click.pass_obj
def rollback(app: Application, site: str, environment: str, as_json: bool) -> None:
    """Serve the bundle before on a site's hosts again."""
    from cli import edge_sites
    from cli.lock import environment_lock

    target = app.environment(environment)
    with environment_lock(target.folder, "hybrid edge"):
        _show(app, edge_sites.roll_back(target, site), as_json)


@edge.command()
@site_option
@environment_option
@json_option
@click.pass_obj
def status(app: Application, site: str, environment: str, as_json: bool) -> None:
    """Tell which bundle serves on each of a site's hosts, and whether it answers."""
    from cli import edge_sites

    _show(app, edge_sites.status(app.environment(environment), site), as_json)


@edge.command()
@site_option
@environment_option
@click.pass_obj
def remove(app: Application, site: str, environment: str) -> None:
    """Take the bundles away from a site's hosts; histories that lie there stay."""
    from cli import edge_sites
    from cli.lock import environment_lock

    target = app.environment(environment)
    with environment_lock(target.folder, "hybrid edge"):
        edge_sites.remove(target, site)
    click.echo(f"No bundle is left on the hosts of {site}.")


def _show(app: Application, hosts, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        app.show_json([asdict(host) for host in hosts])
        return
    app.show_table(
        ["host", "model", "before", "answers"],
        [
            [
                host.address,
                (host.model or "none")[:19],
                (host.previous or "none")[:19],
                "yes" if host.answers else "no",
            ]
            for host in hosts
        ],
    )
