"""The one exception of the model store."""

from __future__ import annotations


class StoreError(Exception):
    """A model cannot be stored, found or trusted; the message is one sentence for the user."""

    exit_code = 1
