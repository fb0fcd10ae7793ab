"""hybrid logs"""

from __future__ import annotations

from collections import deque

import click

from cli.application import Application
from cli.options import environment_option


@click.command()
@click.argument("part")
@environment_option
@click.option("--lines", "-n", default=50, show_default=True, help="How many of the last lines.")
@click.option("--follow", "-f", is_flag=True, help="Go on printing what is added.")
@click.pass_obj
def logs(app: Application, part: str, environment: str, lines: int, follow: bool) -> None:
    """Show what the server PART printed; `hybrid status` lists the parts."""
    import time

    from cli.processes import Supervisor

    supervisor = Supervisor(app.environment(environment).folder)
    path = supervisor.log(part)
    known = sorted(log.stem for log in path.parent.glob("*.log"))
    if part not in known:
        raise click.UsageError(
            f"There is no log of a part {part!r}; "
            + (f"parts with a log: {', '.join(known)}." if known else "nothing has run yet.")
        )
    with path.open(errors="replace") as log:
        click.echo("".join(deque(log, maxlen=lines)), nl=False)
        while follow:
            added = log.read()
            click.echo(added, nl=False)
            if not added:
                time.sleep(0.2)
