"""What a storage account on Azure holds, asked over the REST API of Blob Storage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any
from xml.etree import ElementTree

from infra.holdings import Holding, holding_of

STORAGE = "https://storage.azure.com"  # whom a token must be for
BLOB_HOSTS = ".blob.core.windows.net"
READER = "Storage Blob Data Reader"
_VERSION = {"x-ms-version": "2021-12-02"}  # of the API


class UnseenError(Exception):
    """A storage account that does not show what it holds; the words say why."""


def blob_holding(session: Any, account: str) -> Holding | None:
    """What all containers of a storage account hold, replaced versions too; None where nothing.

    Parameters
    ----------
    session
        An authorised `requests` session.

    Raises
    ------
    UnseenError
        The account refuses, as it does to whoever has no role or no address that it knows.
    """
    address = f"https://{account}{BLOB_HOSTS}"
    return holding_of(address, _blobs(session, account, address))


def _blobs(session: Any, account: str, address: str) -> Iterator[tuple[str, int, datetime]]:
    for container in _listed(session, account, address, {}, "Containers/Container"):
        name = container.findtext("Name", "")
        only = {"restype": "container", "include": "versions"}
        for blob in _listed(session, account, f"{address}/{name}", only, "Blobs/Blob"):
            written = parsedate_to_datetime(blob.findtext("Properties/Last-Modified", ""))
            size = int(blob.findtext("Properties/Content-Length") or 0)
            yield f"{name}/{blob.findtext('Name')}", size, written


def _listed(
    session: Any, account: str, address: str, only: Mapping[str, str], path: str
) -> Iterator[ElementTree.Element]:
    marker = ""
    while True:
        parameters = {"comp": "list", **only} | ({"marker": marker} if marker else {})
        try:
            answer = session.get(address, params=parameters, headers=_VERSION)
        except OSError:  # of which all that `requests` raises is a kind
            raise _unseen(account, "it cannot be reached") from None
        if answer.status_code in (401, 403):
            code = answer.headers.get("x-ms-error-code")
            raise _unseen(account, code or f"{answer.status_code} {answer.reason}")
        answer.raise_for_status()
        page = ElementTree.fromstring(answer.content)
        yield from page.iterfind(path)
        if not (marker := page.findtext("NextMarker") or ""):
            return


def _unseen(account: str, why: str) -> UnseenError:
    return UnseenError(
        f"Storage account {account} does not show what it holds ({why}): it answers from a site's "
        f"address only, and whoever has the role {READER!r}"
    )
