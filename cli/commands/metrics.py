"""hybrid metrics"""

from __future__ import annotations

from pathlib import Path

import click

from cli.application import Application
from cli.options import environment_argument


@click.command()
@environment_argument
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False),
              help="Write a file for node_exporter's textfile collector, NAME.prom.")  # fmt: skip
@click.pass_obj
def metrics(app: Application, environment: str, output: Path | None) -> None:
    """Print what Prometheus may know of ENV's federation and models, in its text format."""
    from cli.files import write_text
    from cli.metrics import exposition

    text = exposition(app.environment(environment))
    if output is None:
        click.echo(text, nl=False)
    else:
        write_text(output, text)
