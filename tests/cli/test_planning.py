"""`hybrid plan --fast`: programs, state, policies, all without the engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cli.checkpoint import recorded
from cli.environment import Environment
from cli.errors import CommandError
from infra.offline.wire import SECRET_SIGNATURE, SIGNATURE_KEY, UNKNOWN, Secret

PROJECT = Path(__file__).resolve().parents[2]
VPC = "urn:pulumi:local.cloud::hybrid::hybrid:infra:GpuPool$aws:ec2/vpc:Vpc::hybrid-local"
OLD = "urn:pulumi:local.cloud::hybrid::aws:ec2/vpc:Vpc::old"


def write_state(home: Path, *resources: dict) -> Path:
    file = home / "local" / "state" / ".pulumi" / "stacks" / "hybrid" / "local.cloud.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"checkpoint": {"latest": {"resources": list(resources)}}}))
    return file


def vpc(urn: str, **inputs) -> dict:
    kind = "aws:ec2/vpc:Vpc"
    outputs = inputs | {"arn": "arn:x"}
    return {"type": kind, "urn": urn, "id": "vpc-1", "custom": True} | {
        "inputs": inputs,
        "outputs": outputs,
    }


def hybrid(home: Path, *arguments: str) -> subprocess.CompletedProcess:
    """A command in a process of its own: it imports the SDKs in another way than tests do."""
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        cwd=PROJECT,
        env=os.environ | {"HYBRID_HOME": str(home)},
        capture_output=True,
        text=True,
    )


def test_a_plan_compares_the_programs_with_the_state(tmp_path):
    write_state(tmp_path, vpc(VPC, cidrBlock="10.99.0.0/16"), vpc(OLD))
    done = hybrid(tmp_path, "plan", "local", "--fast", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    found = {(c["layer"], c["operation"], c["name"]): c for c in told["changes"]}
    assert "cidrBlock" in found["cloud", "replace", "hybrid-local"]["replacing"]
    assert ("cloud", "delete", "old") in found
    assert ("platform", "create", "federation") in found
    assert told["policy"] == []


def test_a_broken_rule_is_told_and_stops_up_before_anything_starts(tmp_path):
    settings = yaml.safe_load((PROJECT / "stacks/environments/production.yaml").read_text())
    del settings["budget"]
    settings["backend"] = f"file://{tmp_path / 'backend'}"
    file = tmp_path / "environments" / "shop.yaml"
    file.parent.mkdir()
    file.write_text(yaml.safe_dump(settings))
    done = hybrid(tmp_path, "plan", "shop", "--fast")
    assert done.returncode == 0, done.stderr
    assert "no-budget" in done.stdout and "1 of them stop `hybrid up`." in done.stdout
    for budget, sentence in (
        (None, "no-budget: settings:"),
        (100, "more than budget.monthly_usd 100.00, so nothing was changed"),
        (100, "  cloud: hybrid-shop: 0 to 8 of g5.xlarge"),
    ):
        changed = settings | ({"budget": {"monthly_usd": budget}} if budget else {})
        file.write_text(yaml.safe_dump(changed))
        up = hybrid(tmp_path, "up", "shop")
        assert up.returncode == 1 and sentence in up.stderr
        assert not (tmp_path / "shop" / "project").exists()


@pytest.fixture
def local(tmp_path) -> Environment:
    return Environment.load("local", tmp_path)


def test_secrets_stay_sealed_and_what_no_program_declares_is_left_out(local, tmp_path):
    sealed = {SIGNATURE_KEY: SECRET_SIGNATURE, "ciphertext": "v1:abc"}
    stack = {"type": "pulumi:pulumi:Stack", "urn": "urn::hybrid-local.cloud"}
    default = {"type": "pulumi:providers:aws", "urn": "urn::default_7_29_0", "custom": True}
    read = vpc("urn::read") | {"external": True}
    write_state(tmp_path, stack, default, read, vpc(OLD, tags={"a": sealed}))
    (found,) = recorded(local).values()
    assert (found.urn, found.id, found.inputs) == (OLD, "vpc-1", {"tags": {"a": Secret(UNKNOWN)}})


def test_an_unreadable_state_is_named(local, tmp_path):
    assert recorded(local) == {}
    file = write_state(tmp_path)
    file.write_text("{")
    with pytest.raises(CommandError, match=str(file)):
        recorded(local)
    file.write_text(json.dumps({"version": 99, "checkpoint": {"latest": {"resources": []}}}))
    with pytest.raises(CommandError, match="(?s)version 99.*A newer engine wrote this state"):
        recorded(local)
