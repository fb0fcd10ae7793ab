"""Errors of the offline plugins."""

from __future__ import annotations


class OfflineError(Exception):
    """A plugin cannot do what the engine asked; ``str()`` says what, where and what to do."""

    exit_code = 1


class UnlistedTypeError(OfflineError):
    """A resource type (or function) that is not in the plugin's table."""

    def __init__(self, package: str, token: str, table: str) -> None:
        super().__init__(
            f"the offline {package} plugin does not know {token!r}: add an entry for it to TYPES "
            f"in {table}, or deploy to an environment that uses the official {package} plugin"
        )
