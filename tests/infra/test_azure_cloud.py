"""What there is on Azure is found by its tags; a resource group goes with all that is in it."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest
import requests
import responses

from infra.azure_cloud import MANAGER, Azure
from infra.listers import Found
from infra.removal import RemovalError

AT = "/subscriptions/s"
GROUP = f"{AT}/resourceGroups/hybrid-shop-1a2b3c4"
OURS = {"tags": {"hybrid:environment": "shop"}}


@pytest.fixture
def server():
    """A subscription with one group of ours; it is there for two more looks once it shall go."""
    looks = iter([200, 200])

    def pages(request: requests.PreparedRequest) -> tuple[int, dict, str]:
        first = "skip" not in request.url
        disk = {"id": f"{GROUP}/providers/Microsoft.Compute/disks/d", "name": "d",
                "type": "Microsoft.Compute/disks"} | OURS  # fmt: skip
        net = {"id": f"{GROUP}/providers/Microsoft.Network/virtualNetworks/n", "name": "n",
               "type": "Microsoft.Network/virtualNetworks"} | OURS  # fmt: skip
        page = {"value": [net], "nextLink": f"{MANAGER}{AT}/resources?api-version=x&skip=1"}
        return 200, {}, json.dumps(page if first else {"value": [disk]})

    with responses.RequestsMock(assert_all_requests_are_fired=False) as server:
        groups = [{"id": GROUP, "name": "hybrid-shop-1a2b3c4"} | OURS,
                  {"id": f"{AT}/resourceGroups/other", "name": "other"}]  # fmt: skip
        server.add("GET", f"{MANAGER}{AT}/resourcegroups", json={"value": groups})
        server.add_callback("GET", re.compile(re.escape(f"{MANAGER}{AT}/resources?")), pages)
        server.add("DELETE", f"{MANAGER}{GROUP.lower()}", status=202)
        server.add_callback("GET", f"{MANAGER}{GROUP.lower()}",
                            lambda request: (next(looks, 404), {}, "{}"))  # fmt: skip
        server.add("DELETE", f"{MANAGER}{AT}/resourcegroups/locked", status=409,
                   json={"error": {"message": "it has a lock"}})  # fmt: skip
        yield server


@pytest.fixture
def azure(server):
    return Azure("s", requests.Session())


def test_groups_come_first_and_machines_are_within_theirs(azure):
    ours = [each for each in azure.list() if each.belongs_to("shop")]
    assert [each.kind for each in ours] == [
        "resource group", "Microsoft.Network/virtualNetworks", "Microsoft.Compute/disks",
    ]  # fmt: skip
    assert [each.within for each in ours] == ["", "", GROUP.lower()]
    assert all(each.identity == each.identity.lower() for each in ours)


def test_a_group_goes_with_all_that_is_in_it_and_is_waited_for(azure, server, monkeypatch):
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    azure.remove([each for each in azure.list() if each.belongs_to("shop")])
    asked = [(call.request.method, call.response.status_code) for call in server.calls]
    assert asked[-4:] == [("DELETE", 202), ("GET", 200), ("GET", 200), ("GET", 404)]


def test_what_is_in_no_group_of_ours_and_what_is_locked_is_named(azure):
    alone = Found("azure", "Microsoft.Network/publicIPAddresses", f"{AT}/resourcegroups/o/p", "p")
    with pytest.raises(RemovalError, match="no way known to remove azure Microsoft.Network/publicIP"):
        azure.remove([alone])
    locked = Found("azure", "resource group", f"{AT}/resourcegroups/locked", "locked")
    with pytest.raises(RemovalError, match="it has a lock"):
        azure.remove([locked])


def test_a_store_gets_a_token_of_its_own_and_nobody_gets_anothers(monkeypatch):
    class Credential:
        def get_token(self, scope: str):
            return SimpleNamespace(token=scope)

    monkeypatch.setattr("azure.identity.DefaultAzureCredential", Credential)
    session = Azure("s").authorised
    for address, scope in (
        ("https://a.blob.core.windows.net/models", "https://storage.azure.com/.default"),
        (f"{MANAGER}{AT}/resources", "https://management.azure.com/.default"),
    ):
        signed = session.prepare_request(requests.Request("GET", address))
        assert signed.headers["Authorization"] == f"Bearer {scope}"
