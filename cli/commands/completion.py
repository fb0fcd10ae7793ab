"""hybrid completion"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for SHELL: eval "$(hybrid completion bash)"."""
    script = get_completion_class(shell)
    assert script is not None  # click knows the three shells of the choice above
    click.echo(script(ctx.find_root().command, {}, "hybrid", "_HYBRID_COMPLETE").source())
