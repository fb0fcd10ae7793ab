"""hybrid metrics"""

from __future__ import annotations

from pathlib import Path

import click

from cli.application import Application
from cli.options import environment_argument, output_option


@click.command()
@environment_argument
@output_option
@click.pass_obj
def metrics(app: Application, environment: str, output: Path | None) -> None:
    """Print what Prometheus may know of ENV's steps, federation and models, in its text format."""
    from cli.files import write_text
    from cli.metrics import exposition

    text = exposition(app.environment(environment))
    if output is None:
        click.echo(text, nl=False)
    else:
        write_text(output, text)
