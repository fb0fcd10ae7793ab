"""What `down` and `orphans` do where an environment's machines are not on AWS."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.environment import Environment
from cli.errors import CommandError
from cli.teardown import AZURE_ACCOUNT, Teardown
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


def test_an_azure_store_goes_only_with_consent_since_nobody_sees_what_it_holds(
    environment, tmp_path
):
    state = tmp_path / "production-azure" / "state"
    record(state, "production-azure.cloud", AZURE_ACCOUNT, name="hybridproduction1a2b3c4")
    teardown = Teardown.of(environment("azure"), silent)
    with pytest.raises(CommandError) as refused:
        teardown.protect_data(delete=False)
    assert str(refused.value) == (
        "Storage account hybridproduction1a2b3c4 goes with all that it holds, which cannot be seen "
        "from here. Nothing was torn down: copy what you need, then run hybrid down "
        "production-azure --delete-data."
    )
    teardown.protect_data(delete=True)


def test_on_azure_nothing_is_listed_and_orphans_says_so(environment):
    teardown = Teardown.of(environment("azure"), silent)
    teardown.protect_data(delete=False)  # there is no store in the state
    teardown.drain_groups()
    teardown.remove_unrecorded(())
    teardown.require_nothing_left()
    with pytest.raises(CommandError, match="is on Azure, where nothing is listed yet") as refused:
        _ = teardown.places
    assert refused.value.exit_code == 2


def test_on_google_cloud_nobody_asks_aws(environment):
    teardown = Teardown.of(environment("gcp"), silent)
    assert teardown.aws is None and teardown.gcs is not None
    assert teardown.found("autoscaling") == []
    assert "nothing else was looked at" in teardown.places
