"""Errors of handlers and archives; each message is one sentence for whoever caused it."""

from __future__ import annotations


class BadRequest(Exception):
    """The client must change its request; `status` is the HTTP status code."""

    status = 400


class ArchiveError(Exception):
    """A model cannot be made into an archive, or an archive cannot be trusted."""

    exit_code = 1
