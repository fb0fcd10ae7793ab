"""Run `hybrid` in this process, to its end."""

from __future__ import annotations

import pytest

from cli.main import main


def ends(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    said = capsys.readouterr()
    return stop.value.code, said.out, said.err
