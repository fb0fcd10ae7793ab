"""The one exception that the federation package raises for anything a user can act on."""

from __future__ import annotations


class FederationError(Exception):
    """A federation could not be set up, reached or run; the text says why and what to do."""

    exit_code = 1
