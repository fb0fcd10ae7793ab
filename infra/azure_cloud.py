"""What an environment has on Azure: its resource group, and all that is in it or carries its tags.

Asked over Azure Resource Manager's REST API, which lists resources of every kind in one call.
What a storage account holds is in `infra.azure_blobs`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_exponential

from infra.azure_blobs import BLOB_HOSTS, STORAGE
from infra.cloud_http import keep_trying, reason
from infra.listers import Found
from infra.removal import RemovalError

MANAGER = "https://management.azure.com"
API = {"api-version": "2021-04-01"}
# A VPN gateway alone takes half an hour to go.
PATIENCE_SECONDS = 3600.0
# What a scale set makes and takes along when it goes; none of it is in the engine's state.
_OF_MACHINES = re.compile(
    r"microsoft\.compute/(virtualmachines|disks)|microsoft\.network/networkinterfaces"
)


@dataclass(frozen=True)
class Azure:
    """One subscription, with the credentials of the process environment.

    Parameters
    ----------
    session
        An authorised `requests` session; made when first needed where none is given.
    """

    subscription: str
    session: Any = None

    def list(self) -> list[Found]:
        """Resource groups, then resources, of whatever environment.

        Ids are in small letters: Azure itself is not of one mind about them.
        """
        at = f"{MANAGER}/subscriptions/{self.subscription}"
        groups = [
            Found("azure", "resource group", each["id"].lower(), each["name"], each.get("tags") or {})
            for each in self._pages(f"{at}/resourcegroups")
        ]
        return groups + [self._resource(each) for each in self._pages(f"{at}/resources")]

    def remove(self, found: Iterable[Found]) -> None:
        """Remove resource groups with all that is in them; wait for each until it is gone.

        Raises
        ------
        RemovalError
            Azure refuses, a group does not go, or something is in none that goes.
        """
        gone: list[str] = []
        for each in found:
            if any(each.identity.startswith(f"{group}/") for group in gone):
                continue
            if each.kind != "resource group":
                raise RemovalError(f"There is no way known to remove {each}: remove it by hand.")
            address = f"{MANAGER}{each.identity}"
            answer = self.authorised.delete(address, params=API)
            if not answer.ok and answer.status_code != 404:
                raise RemovalError(f"{each} cannot be removed: {reason(answer)}")
            self._await(each, address)
            gone.append(each.identity)

    def _await(self, each: Found, address: str) -> None:
        there = Retrying(
            retry=retry_if_result(lambda answer: answer.status_code != 404),
            wait=wait_exponential(0.5, max=15),
            stop=stop_after_delay(PATIENCE_SECONDS),
        )
        try:
            there(self.authorised.get, address, params=API)
        except RetryError:
            minutes = PATIENCE_SECONDS / 60
            raise RemovalError(
                f"Waited {minutes:.0f} minutes in vain for {each} to go: look at it in the portal, "
                "then run the command again."
            ) from None

    def _resource(self, each: Mapping[str, Any]) -> Found:
        identity, kind = each["id"].lower(), each["type"].lower()
        group = identity.partition("/providers/")[0]
        within = group if _OF_MACHINES.fullmatch(kind) else ""
        return Found("azure", each["type"], identity, each["name"], each.get("tags") or {}, within)

    def _pages(self, address: str) -> Iterator[Mapping[str, Any]]:
        parameters: Mapping[str, str] = API
        while address:
            answer = self.authorised.get(address, params=parameters)
            answer.raise_for_status()
            page = answer.json()
            yield from page["value"]
            address, parameters = page.get("nextLink") or "", {}

    @cached_property
    def authorised(self) -> Any:
        """A session that Azure knows, for storage accounts as well."""
        if self.session is not None:
            return self.session
        import requests
        from azure.identity import DefaultAzureCredential

        session = requests.Session()
        session.auth = _Bearer(DefaultAzureCredential())
        return keep_trying(session)


class _Bearer:
    """Signs requests; the credential keeps a token as long as it is good."""

    def __init__(self, credential: Any) -> None:
        self._credential = credential

    def __call__(self, request: Any) -> Any:
        of_store = urlsplit(request.url).hostname.endswith(BLOB_HOSTS)
        scope = STORAGE if of_store else MANAGER
        token = self._credential.get_token(f"{scope}/.default").token
        request.headers["Authorization"] = f"Bearer {token}"
        return request
