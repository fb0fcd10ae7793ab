"""What every command is given: where the environments live and how to speak to the user."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.tracing import step, trace_command

if TYPE_CHECKING:
    from rich.console import Console
    from rich.tree import Tree

    from cli.environment import Environment

PROJECT = Path(__file__).resolve().parent.parent
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Application:
    """The running command line.

    Parameters
    ----------
    home
        Folder with one subfolder for each environment: $HYBRID_HOME, else .hybrid in the project.
    """

    home: Path

    @classmethod
    def from_process(cls) -> Application:
        """Take the home from the process environment."""
        return cls(Path(os.environ.get("HYBRID_HOME") or PROJECT / ".hybrid").absolute())

    def environment(self, name: str) -> Environment:
        """Settings and folder of an environment; SettingsError where there is none of that name."""
        from cli.environment import Environment

        environment = Environment.load(name, self.home)
        trace_command(environment)
        return environment

    @cached_property
    def messages(self) -> Console:
        """Console on standard error: progress and remarks, so that standard output stays clean."""
        from rich.console import Console

        return Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Remark on standard error."""
        click.echo(text, err=True)

    def ask_to_go_on(self, question: str) -> None:
        """Let somebody answer before anything is destroyed.

        Raises
        ------
        UsageError
            When nobody can answer, as in a script.
        ClickException
            When the answer is no.
        """
        try:
            agreed = click.confirm(question, err=True)
        except click.Abort:
            if sys.stdin.isatty():
                raise
            click.echo(err=True)
            raise click.UsageError(
                "this question needs an answer, and nobody is there to give one: say --yes"
            ) from None
        if not agreed:
            raise click.ClickException("Nothing was destroyed: the answer was no.")

    def show_json(self, data: Any) -> None:
        """Print data for programs."""
        click.echo(json.dumps(data, indent=2, default=str))

    def show_table(self, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
        """Print a table for people; outside a terminal it is as wide as its content."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*[Text(str(cell)) for cell in row])
        _console().print(table)

    def show_tree(self, tree: Tree) -> None:
        """Print a tree for people; lines fold at the edge of a terminal, and nowhere else."""
        _console().print(tree)

    @contextmanager
    def progress(self, label: str) -> Iterator[Progress]:
        """Give a function (done, total, text): a bar on a terminal, plain lines elsewhere."""
        with step(label), self._shown(label) as advance:
            yield advance

    @contextmanager
    def _shown(self, label: str) -> Iterator[Progress]:
        if not sys.stderr.isatty():
            yield self._plain_progress(label)
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.fields[label]}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
        )
        with Progress(*columns, console=self.messages) as bar:
            task = bar.add_task("", label=label, total=None)

            def advance(done: int, total: int, text: str) -> None:
                bar.update(task, completed=done, total=total, description=text)

            yield advance

    def _plain_progress(self, label: str) -> Progress:
        last = ""

        def advance(done: int, total: int, text: str) -> None:
            nonlocal last
            if text != last:
                last = text
                self.say(f"{label}: {text}")

        return advance


def _console() -> Console:
    """Standard output for tables and trees, which take only as much of the width as they need."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 1000  # nothing is folded
    return console
