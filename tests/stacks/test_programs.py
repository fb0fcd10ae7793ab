"""The stacks under the real engine: every layer plans without accounts, servers or other layers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from cli.layers import LAYERS
from infra.offline.install import install
from infra.offline.wire import UNKNOWN as WIRE_UNKNOWN
from stacks.capture import Capture
from stacks.settings import SHIPPED, load_settings
from tests.stacks import plan_only

PROJECT = Path(__file__).resolve().parents[2]
ENGINE = (
    Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hybrid/pulumi/bin/pulumi"
)
# Stacks, with the number of resources that they create. The layers that differ between the
# environments are planned for a real one too.
STACKS = {
    "local.private": 5,
    "local.cloud": 50,
    "local.link": 12,
    "local.platform": 60,
    "production.private": 25,
    "production.cloud": 65,
    "production.platform": 62,
    "production-gcp.cloud": 37,
    "production-gcp.link": 14,
    "production-azure.cloud": 29,
    "production-azure.link": 9,
}
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
DEFAULT_TAGS = {"hybrid:environment", "hybrid:layer", "ManagedBy"}


class Shell:
    """`pulumi` as a user types it, with a state and a home of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "project"
        self.folder.mkdir()
        (folder / "state").mkdir()
        text = (PROJECT / "Pulumi.yaml").read_text()
        text = re.sub(r"(?m)^main:.*$", f"main: {json.dumps(str(PROJECT / 'stacks'))}", text)
        (self.folder / "Pulumi.yaml").write_text(text)
        own_bin = Path(sys.executable).parent
        self.variables = os.environ | {
            # The language host takes the first python: the one with our packages.
            "PATH": os.pathsep.join([str(own_bin), str(ENGINE.parent), os.environ["PATH"]]),
            "PULUMI_HOME": str(folder / "home"),
            "PULUMI_BACKEND_URL": f"file://{folder / 'state'}",
            "PULUMI_CONFIG_PASSPHRASE": "of the test",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            "HYBRID_HOME": str(folder / "hybrid"),
            # A relative entry would mean the programs' folder to the engine's Python processes, and
            # put its modules before those of the standard library.
            "PYTHONPATH": str(PROJECT),
        }
        install(ENGINE, folder / "home")
        plan_only.install(folder / "home", "gcp", "azure")

    def run(self, *arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [str(ENGINE), *arguments, "--non-interactive"],
            cwd=self.folder,
            env=self.variables,
            capture_output=True,
            text=True,
        )

    def preview(self, stack: str) -> dict:
        done = self.run("preview", "--stack", stack, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def shell(tmp_path_factory) -> Shell:
    assert ENGINE.exists(), "The Pulumi engine is not installed: run make setup."
    return Shell(tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="module")
def plans(shell) -> dict[str, dict]:
    """Previews by stack name; nothing is deployed."""

    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda stack: shell.run("stack", "init", stack), STACKS))
        assert not any(done.returncode for done in made)
        return dict(zip(STACKS, pool.map(shell.preview, STACKS), strict=True))


def resources(plan: dict, kind: str = "") -> list[dict]:
    """Declared resources whose type begins with `kind`."""
    return [
        step["newState"]
        for step in plan["steps"]
        if step["newState"]["type"].startswith(kind) and step["newState"].get("custom")
    ]


@pytest.mark.parametrize("stack", STACKS)
def test_every_layer_plans_before_anything_exists(plans, stack):
    plan = plans[stack]
    assert {step["op"] for step in plan["steps"]} <= {"create", "read"}
    assert plan["changeSummary"]["create"] == STACKS[stack]
    assert not [d for d in plan.get("diagnostics", []) if d["severity"] in ("error", "warning")]


def test_what_another_layer_will_give_is_unknown(plans):
    (gateway,) = resources(plans["local.link"], "aws:ec2/vpnGateway:")
    assert gateway["inputs"]["vpcId"] == UNKNOWN
    (provider,) = resources(plans["local.platform"], "pulumi:providers:kubernetes")
    assert UNKNOWN in json.dumps(provider["inputs"]["kubeconfig"])


def test_without_an_emulator_the_account_is_checked_and_no_credential_is_made_up(plans):
    (provider,) = resources(plans["production.cloud"], "pulumi:providers:aws")
    assert json.loads(provider["inputs"]["allowedAccountIds"]) == ["111122223333"]
    assert not {"accessKey", "secretKey", "endpoints"} & provider["inputs"].keys()
    (provider,) = resources(plans["production.cloud"], "pulumi:providers:gcp")
    assert not {"accessToken", "storageCustomEndpoint"} & provider["inputs"].keys()


@pytest.mark.parametrize("stack", ["local.cloud", "local.link", "production.cloud"])
def test_the_provider_tags_everything_with_environment_and_layer(plans, stack):
    (provider,) = resources(plans[stack], "pulumi:providers:aws")
    tags = json.loads(provider["inputs"]["defaultTags"])["tags"]
    assert tags.keys() == DEFAULT_TAGS
    assert f"{tags['hybrid:environment']}.{tags['hybrid:layer']}" == stack


def test_production_gets_a_nat_for_each_zone_and_local_one(plans):
    assert len(resources(plans["local.cloud"], "aws:ec2/natGateway:")) == 1
    assert len(resources(plans["production.cloud"], "aws:ec2/natGateway:")) == 3


def test_production_installs_k3s_on_every_host(plans):
    commands = resources(plans["production.private"], "command:remote:Command")
    installs = [c for c in commands if "INSTALL_K3S_EXEC" in json.dumps(c["inputs"])]
    assert len(installs) == 5


def test_production_hands_the_join_token_to_the_secret_that_machines_read(plans):
    (secret,) = resources(plans["production.cloud"], "aws:secretsmanager/secret:")
    assert secret["inputs"]["recoveryWindowInDays"] == 0
    (version,) = resources(plans["production.platform"], "aws:secretsmanager/secretVersion:")
    assert version["inputs"]["secretId"] == version["inputs"]["secretString"] == UNKNOWN
    assert not resources(plans["local.cloud"], "aws:secretsmanager/")


@pytest.mark.parametrize("stack", STACKS)
def test_what_is_captured_without_the_engine_is_what_the_engine_is_told(plans, stack):
    environment, _, layer = stack.partition(".")
    capture = Capture(environment, load_settings(environment))
    found = {r.urn: r for r in capture.run(tuple(LAYERS[: LAYERS.index(layer) + 1]))}
    planned = {r["urn"]: r for r in resources(plans[stack]) if not r.get("external")}
    mine = {urn for urn, r in found.items() if r.layer == layer and r.custom}
    assert mine == planned.keys()
    for urn in mine:
        if not found[urn].type.startswith("pulumi:"):
            assert_told(planned[urn]["inputs"], found[urn].inputs, urn)


def assert_told(planned, captured, where: str) -> None:
    """Everything captured stands in the plan, which hides secrets and has plugins' defaults."""
    captured = getattr(captured, "value", captured)
    if captured is WIRE_UNKNOWN or planned in ("[secret]", UNKNOWN):
        return
    if isinstance(captured, dict):
        assert isinstance(planned, dict), where
        for key, value in captured.items():
            assert key in planned, f"{where}.{key}"
            assert_told(planned[key], value, f"{where}.{key}")
    elif isinstance(captured, list):
        assert len(captured) == len(planned), where
        for number, (one, other) in enumerate(zip(planned, captured, strict=True)):
            assert_told(one, other, f"{where}.{number}")
    else:
        assert planned == captured, where


def test_the_policy_pack_stops_the_engine_for_what_is_broken_and_nothing_else(shell):
    """A route to a NAT is no public path, though the engine tells its gateway as unknown."""
    folder = shell.folder.parent / "hybrid" / "environments"
    folder.mkdir(parents=True, exist_ok=True)
    settings = yaml.safe_load((SHIPPED / "production.yaml").read_text())
    del settings["budget"]
    (folder / "spender.yaml").write_text(yaml.safe_dump(settings))
    try:
        assert shell.run("stack", "init", "spender.cloud").returncode == 0
        pack = str(PROJECT / "stacks" / "policy")
        done = shell.run("preview", "--stack", "spender.cloud", "--policy-pack", pack)
    finally:
        (folder / "spender.yaml").unlink()
    assert done.returncode != 0
    assert re.findall(r"\[mandatory\]\s+([a-z-]+)", done.stdout) == ["no-budget"], done.stdout


def test_bringing_up_a_layer_too_early_names_the_one_that_is_missing(shell, plans):
    done = shell.run("up", "--stack", "local.link", "--yes", "--skip-preview")
    assert done.returncode != 0
    told = done.stdout + done.stderr
    assert "Stack local.cloud has no output" in told and "bring it up first." in told


@pytest.mark.parametrize(
    ("stack", "sentence"),
    [
        ("local.cellar", "it must be <environment>.<layer> with one of private, cloud, link"),
        ("nowhere.cloud", "There is no environment 'nowhere': there are local, production,"),
    ],
)
def test_a_stack_with_an_unknown_name_is_told_what_it_may_be(shell, stack, sentence):
    assert shell.run("stack", "init", stack).returncode == 0
    done = shell.run("preview", "--stack", stack)
    assert done.returncode != 0
    assert sentence in " ".join((done.stdout + done.stderr).split())
    assert "Traceback" not in done.stdout + done.stderr
