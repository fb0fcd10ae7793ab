"""Errors of handlers and archives; each message is one sentence for whoever caused it."""

from __future__ import annotations


class BadRequest(Exception):
    """The client must change its request; `status` is the HTTP status code."""

    status = 400


class UnknownItem(BadRequest):
    """The request is well formed, and asks about an item that the model does not know."""

    status = 422


class ArchiveError(Exception):
    """A model cannot be made into an archive, or an archive cannot be trusted."""

    exit_code = 1
