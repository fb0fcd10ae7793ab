"""What there is on Google Cloud is found by whose it is, and goes in an order that Google accepts.

A stand-in of the REST APIs answers; its paths and fields are those of Google's own description.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import googleapiclient
import pytest
import requests
import responses

from infra.gcp_cloud import COMPUTE, COMPUTE_KINDS, IAM, SECRETS, GoogleCloud, described
from infra.removal import RemovalError

PROJECT = f"{COMPUTE}/projects/shop-project"
OURS = {"description": described("shop")}
GROUP = "projects/shop-project/zones/z/instanceGroupManagers/hybrid-shop-spot-a"


@pytest.fixture(scope="module")
def api() -> dict:
    """Google's own description of Compute Engine's API."""
    documents = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents"
    return json.loads((documents / "compute.v1.json").read_text())


def thing(collection: str, name: str, place: str = "regions/r", **more) -> dict:
    link = f"https://www.googleapis.com/compute/v1/projects/shop-project/{place}/{collection}/{name}"
    return {"selfLink": link, "name": name} | more


class Google:
    """Holds objects by path, and refuses to delete a network that a subnetwork is in."""

    def __init__(self, server: responses.RequestsMock) -> None:
        self.gone: list[str] = []
        self.things = {
            "instanceGroupManagers": [
                thing("instanceGroupManagers", "hybrid-shop-spot-a", "zones/z", **OURS)],
            "instances": [
                thing("instances", "m", "zones/z", labels={"hybrid-environment": "shop"},
                      metadata={"items": [{"key": "created-by", "value":
                                GROUP.replace("shop-project", "123456")}]})],
            "disks": [
                thing("disks", "m", "zones/z", labels={"hybrid-environment": "shop"},
                      users=[thing("instances", "m", "zones/z")["selfLink"]])],
            "subnetworks": [thing("subnetworks", "hybrid-shop-1", **OURS)],
            "networks": [
                thing("networks", "hybrid-shop-1", "global", **OURS),
                thing("networks", "hybrid-shop-eu-1234567", "global",
                      description=described("shop-eu")),
                thing("networks", "default", "global", description="Default network"),
            ],
        }  # fmt: skip
        for _, collection, whole in COMPUTE_KINDS:
            path = f"{'global' if whole else 'aggregated'}/{collection}"
            server.add_callback("GET", f"{PROJECT}/{path}", self.lists(collection, whole))
        server.add_callback("DELETE", re.compile(re.escape(PROJECT)), self.deletes)
        server.add("GET", f"{IAM}/projects/shop-project/serviceAccounts", json={"accounts": [
            {"name": "projects/shop-project/serviceAccounts/a@x", "email": "a@x"} | OURS]})
        server.add("GET", f"{IAM}/projects/shop-project/roles", json={"roles": [
            {"name": "projects/shop-project/roles/hybrid_shop_autoscaler_1"} | OURS,
            {"name": "projects/shop-project/roles/somebodys"}]})
        server.add("GET", f"{SECRETS}/projects/shop-project/secrets", json={"secrets": [
            {"name": "projects/123456/secrets/j", "labels": {"hybrid-environment": "shop"}}]})

    def lists(self, collection: str, whole: bool):
        def answer(request: requests.PreparedRequest) -> tuple[int, dict, str]:
            there = [t for t in self.things.get(collection, []) if t["selfLink"] not in self.gone]
            if whole:
                return 200, {}, json.dumps({"items": there})
            if "pageToken" not in request.url and there:  # the first of two pages has none
                return 200, {}, json.dumps({"items": {"zones/y": {}}, "nextPageToken": "2"})
            return 200, {}, json.dumps({"items": {"regions/r": {collection: there}}})

        return answer

    def deletes(self, request: requests.PreparedRequest) -> tuple[int, dict, str]:
        path = request.url.removeprefix(COMPUTE)
        every = {t["selfLink"]: t for several in self.things.values() for t in several}
        (link,) = [each for each in every if each.endswith(path)]
        if "/networks/" in link and not any("/subnetworks/" in each for each in self.gone):
            return 400, {}, json.dumps({"error": {"message": "in use", "code": 400}})
        self.gone.append(link)
        return 200, {}, json.dumps({"status": "DONE", "selfLink": f"{PROJECT}/global/operations/o"})


@pytest.fixture
def google():
    with responses.RequestsMock(assert_all_requests_are_fired=False) as server:
        yield Google(server)


def test_every_kind_is_asked_for_and_told_by_label_or_description(google):
    found = GoogleCloud("shop-project", requests.Session()).list()
    ours = {(each.kind, each.name): each for each in found if each.belongs_to("shop")}
    assert {kind for kind, _ in ours} == {
        "instance group", "instance", "disk", "subnetwork", "network", "service account", "role",
        "secret",
    }  # fmt: skip
    assert ("network", "default") not in ours and len(ours) == 8
    assert ours["instance", "m"].within == ours["instance group", "hybrid-shop-spot-a"].identity
    assert ours["disk", "m"].within == ours["instance", "m"].identity
    assert ours["secret", "j"].identity == "projects/shop-project/secrets/j"


def test_all_of_it_can_be_removed_in_the_order_of_the_list(google):
    cloud = GoogleCloud("shop-project", requests.Session())
    ours = [e for e in cloud.list() if e.belongs_to("shop") and e.service == "compute"]
    cloud.remove(ours)
    left = {each.name for each in cloud.list() if each.service == "compute"}
    assert left == {"default", "hybrid-shop-eu-1234567"}


def test_a_refusal_names_what_and_why(google):
    cloud = GoogleCloud("shop-project", requests.Session())
    (network,) = [e for e in cloud.list() if e.kind == "network" and e.belongs_to("shop")]
    with pytest.raises(RemovalError, match=r"hybrid-shop-1\) cannot be removed: in use"):
        cloud.remove([network])


@pytest.mark.parametrize(("kind", "collection", "whole"), COMPUTE_KINDS)
def test_google_has_such_a_collection(api, kind, collection, whole):
    names = [collection, f"region{collection[0].upper()}{collection[1:]}"]
    methods = [api["resources"][n]["methods"] for n in names if n in api["resources"]]
    listing = methods[0]["list" if whole else "aggregatedList"]
    path = f"{'global' if whole else 'aggregated'}/{collection}"
    assert listing["path"] == f"projects/{{project}}/{path}"
    paths = [each["delete"]["path"] for each in methods if "delete" in each]
    assert paths and all(re.search(rf"/{collection}/{{\w+}}$", path) for path in paths)
