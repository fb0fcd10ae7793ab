"""Errors of handlers and archives; each message is one sentence for whoever caused it."""

from __future__ import annotations


class Refused(Exception):
    """A request gets no answer; `status` is the HTTP status code.

    `cause` names what beside the model keeps it from one, such as the session store; it is empty
    where nothing does.
    """

    status, cause = 500, ""


class BadRequest(Refused):
    """The client must change its request."""

    status = 400


class NoCredential(Refused):
    """The request needs a token, and has none that is good."""

    status = 401


class OtherUser(Refused):
    """The request's token is for another user."""

    status = 403


class UnknownItem(BadRequest):
    """The request is well formed, and asks about an item that the model does not know."""

    status = 422


class OtherModel(Refused):
    """The request brings what another model than this one has made."""

    status = 409


class OtherSite(Refused):
    """The request is about what is private to a site, and this is not its service."""

    status = 421


class NoSessions(Refused):
    """There is no session store, or it does not answer; the same request may be sent again."""

    status, cause = 503, "sessions"


class ArchiveError(Exception):
    """A model cannot be made into an archive, or an archive cannot be trusted."""

    exit_code = 1
