"""What `down` and `orphans` do where an environment's machines are not on AWS."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import requests
import responses
from responses import matchers

from cli.environment import Environment
from cli.errors import CommandError
from cli.teardown import AZURE_ACCOUNT, Teardown
from infra.azure_cloud import Azure
from infra.faults import CloudError
from infra.listers import Found
from stacks.settings import SHIPPED, load_settings


def silent(done: int, total: int, text: str) -> None:
    """Say nothing."""


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An environment whose state is on this disk: ``environment("azure")``."""
    monkeypatch.delenv("PULUMI_BACKEND_URL", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none"))

    def make(cloud: str) -> Environment:
        name = f"production-{cloud}"
        settings = load_settings(name, [SHIPPED]).model_copy(update={"backend": None})
        return Environment(name, settings, tmp_path / name)

    return make


def record(folder: Path, stack: str, kind: str, **outputs: str) -> None:
    """Put one resource into a stack's state."""
    file = folder / ".pulumi" / "stacks" / "hybrid" / f"{stack}.json"
    file.parent.mkdir(parents=True)
    urn = f"urn:pulumi:{stack}::hybrid::{kind}::it"
    resource = {"type": kind, "urn": urn, "id": "id", "custom": True, "outputs": outputs}
    file.write_text(json.dumps({"checkpoint": {"latest": {"resources": [resource]}}}))


STORE = "https://hybridproduction1a2b3c4.blob.core.windows.net"
LISTED = """<?xml version="1.0" encoding="utf-8"?><EnumerationResults>{}<NextMarker>{}</NextMarker>
</EnumerationResults>"""
BLOB = """<Blobs><Blob><Name>{}</Name><Properties>
<Last-Modified>{} GMT</Last-Modified><Content-Length>{}</Content-Length></Properties></Blob></Blobs>"""


@pytest.fixture
def azure(environment, tmp_path):
    """An environment on Azure with a storage account in its state."""
    state = tmp_path / "production-azure" / "state"
    record(state, "production-azure.cloud", AZURE_ACCOUNT, name="hybridproduction1a2b3c4")
    teardown = Teardown.of(environment("azure"), silent)
    with responses.RequestsMock() as server:
        yield replace(teardown, machines=Azure("s", requests.Session())), server


def asked(server: responses.RequestsMock, path: str, answer: str, **query: str) -> None:
    """Let the account answer a question, which must say how the API is meant."""
    server.get(
        f"{STORE}{path}", body=b"\xef\xbb\xbf" + answer.encode(),
        match=[matchers.query_param_matcher({"comp": "list", **query}),
               matchers.header_matcher({"x-ms-version": "2021-12-02"})],
    )  # fmt: skip


def test_an_azure_store_tells_what_it_holds_page_by_page_and_stays(azure):
    teardown, server = azure
    container = "<Containers><Container><Name>models</Name></Container></Containers>"
    asked(server, "/", LISTED.format(container, ""))
    versions = {"restype": "container", "include": "versions"}
    model = f"manifests/{'0' * 64}.json"
    first = BLOB.format(model, "Sun, 01 Nov 2026 10:00:00", 400)
    second = BLOB.format("channels/production", "Tue, 03 Nov 2026 11:30:00", 1800)
    asked(server, "/models", LISTED.format(first, "2"), **versions)
    asked(server, "/models", LISTED.format(second, ""), **versions, marker="2")
    with pytest.raises(CommandError) as refused:
        teardown.protect_data(delete=False)
    assert str(refused.value) == (
        f"{STORE} holds 2 objects of 2.2 kB, the newest of 2026-11-03 11:30 UTC, among them 1 "
        "model (channels: production). Nothing was torn down: copy what you need, then run hybrid down "
        "production-azure --delete-data."
    )


def test_an_empty_azure_store_goes_without_consent(azure):
    teardown, server = azure
    asked(server, "/", LISTED.format("<Containers />", ""))
    teardown.protect_data(delete=False)


@pytest.mark.parametrize(
    ("refusal", "why"),
    [
        ({"status": 403, "headers": {"x-ms-error-code": "AuthorizationFailure"}},
         "AuthorizationFailure"),
        ({"body": requests.ConnectionError("no such host")}, "it cannot be reached"),
    ],
)  # fmt: skip
def test_an_azure_store_that_does_not_tell_goes_only_with_consent(azure, refusal, why):
    teardown, server = azure
    server.get(STORE, **refusal)
    with pytest.raises(CommandError) as refused:
        teardown.protect_data(delete=False)
    assert str(refused.value) == (
        f"Storage account hybridproduction1a2b3c4 does not show what it holds ({why}): it answers "
        "from a site's address only, and whoever has the role 'Storage Blob Data Reader'. Nothing "
        "was torn down: copy what you need, then run hybrid down production-azure --delete-data."
    )
    teardown.protect_data(delete=True)  # asks nothing


def test_on_azure_and_google_cloud_nobody_asks_aws(environment):
    azure, google = (Teardown.of(environment(cloud), silent) for cloud in ("azure", "gcp"))
    assert azure.aws is google.aws is azure.gcs is None and google.gcs is not None
    assert (azure.places, google.places) == ("Azure", "Google Cloud")
    azure.protect_data(delete=False)  # there is no store in the state
    azure.drain_groups()
    google.drain_groups()


class Elsewhere:
    """A cloud with these objects, which keeps what it was asked to remove."""

    def __init__(self, *found: Found) -> None:
        self.there, self.removed = list(found), []

    def list(self) -> list[Found]:
        return self.there

    def remove(self, found) -> None:
        self.removed += found


def test_what_another_cloud_has_is_an_orphan_unless_a_state_or_its_group_knows_it():
    ours = {"hybrid:environment": "shop"}
    group = Found("azure", "resource group", "/subscriptions/s/resourcegroups/g", "g", ours)
    machine = Found("azure", "vm", f"{group.identity}/m", "m", ours, within=group.identity)
    lost = Found("azure", "disk", "/subscriptions/s/resourcegroups/h/d", "d", ours)
    others = Found("azure", "disk", "/subscriptions/s/resourcegroups/h/e", "e", {"x": "y"})
    cloud = Elsewhere(group, machine, lost, others)
    teardown = Teardown("shop", None, None, silent, machines=cloud)
    known = {"/subscriptions/s/resourceGroups/G"}
    assert teardown.unrecorded(known) == [lost]
    teardown.remove_unrecorded(known)
    assert cloud.removed == [lost]
    with pytest.raises(CommandError, match="shop is torn down, but this is left: azure resource"):
        teardown.require_nothing_left()


def test_without_credentials_the_command_says_what_gives_some(environment):
    teardown = Teardown.of(environment("gcp"), silent)
    with pytest.raises(CloudError, match="gcloud auth application-default login"):
        teardown.found()
