"""The exceptions of the command line itself."""

from __future__ import annotations


class CommandError(Exception):
    """A failure told in one sentence; the process ends with `exit_code` (1 failure, 2 usage)."""

    def __init__(self, sentence: str, exit_code: int = 1) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


class ServingError(Exception):
    """A model cannot be served or asked; the message is one sentence for the user."""

    exit_code = 1
