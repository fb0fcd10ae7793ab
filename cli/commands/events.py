"""hybrid events"""

from __future__ import annotations

import click

from cli.application import Application
from cli.options import environment_option, json_option


@click.group()
def events() -> None:
    """Say who may post what users did, and ask with it."""


@events.command()
@click.option("--user", "-u", help="The user for whom one may post and ask.")
@click.option("--any-user", is_flag=True, help="For all users: for a back-end that you trust.")
@click.option("--minutes", type=click.IntRange(1, 24 * 60), default=15, show_default=True,
              help="For how long the token is good.")
@environment_option
@click.pass_obj
def token(
    app: Application, user: str | None, any_user: bool, minutes: int, environment: str
) -> None:
    """Print a token to post events and to ask with, signed by the environment's key."""
    from cli import posting

    if (user is None) != any_user:
        raise click.UsageError("Give either --user or --any-user.")
    click.echo(posting.token(app.environment(environment), user, minutes))


@events.command()
@click.option("--rotate", is_flag=True,
              help="Sign with a new key from now on; the old one is trusted until it is removed.")
@environment_option
@json_option
@click.pass_obj
def key(app: Application, rotate: bool, environment: str, as_json: bool) -> None:
    """Show the public keys whose tokens are good, as the setting events.keys takes them."""
    from cli import posting

    target = app.environment(environment)
    keys = target.posting_keys()
    if rotate:
        keys.rotate()
    trusted = posting.trusted_keys(target)
    if as_json:
        app.show_json({"folder": str(keys.folder), "trusted": trusted})
        return
    if rotate:
        app.say(f"New tokens are signed by another key: hybrid up {environment} tells the service.")
    for each in trusted:
        click.echo(each)
