"""Errors that a user can act on."""

from __future__ import annotations


class RecsysError(Exception):
    """Data, a model or a run is not usable; ``str()`` says which and what to do."""

    exit_code = 1


class RecipeError(RecsysError):
    """A recipe holds a value that no model can be trained with."""

    exit_code = 2
