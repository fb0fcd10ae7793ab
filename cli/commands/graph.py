"""hybrid graph"""

from __future__ import annotations

from pathlib import Path

import click

from cli.application import Application
from cli.options import environment_argument, output_option


@click.command()
@environment_argument
@output_option
@click.pass_obj
def graph(app: Application, environment: str, output: Path | None) -> None:
    """Draw ENV's resources and what needs what, as SVG."""
    from cli.files import write_text
    from cli.graph import draw
    from cli.planning import capture

    svg = draw(capture(app.environment(environment)).declared)
    if output is None:
        click.echo(svg)
    else:
        write_text(output.absolute(), svg)
        app.say(f"Written to {output}.")
