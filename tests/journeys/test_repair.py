"""An `up` that is cut off anywhere is finished by the next one, and `down` leaves nothing.

AWS and GCS are emulators of the test's own here, so that they can still be asked after `down`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable

import boto3
import pytest
import yaml
from tenacity import retry, retry_if_result, stop_after_delay, wait_fixed

from cli.local import fake_gcs_program


@pytest.fixture(scope="module")
def clouds(user):
    """moto and fake-gcs-server on the ports that the settings name as endpoints."""
    ports = user.ports
    file = user.home / "environments" / "local.yaml"
    settings = yaml.safe_load(file.read_text())
    settings["aws"] = {"endpoint": f"http://127.0.0.1:{ports['moto']}"}
    settings["gcp"]["endpoint"] = f"http://127.0.0.1:{ports['gcs']}"
    file.write_text(yaml.safe_dump(settings))
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    moto = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(ports["moto"])], **quiet
    )
    gcs = subprocess.Popen(
        [fake_gcs_program(), "-scheme", "http", "-backend", "memory", "-host", "127.0.0.1",
         "-port", str(ports["gcs"])], **quiet,
    )  # fmt: skip
    clouds = Clouds(ports["moto"], ports["gcs"])
    until(clouds.answer)
    yield clouds
    for process in (moto, gcs):
        process.kill()
        process.wait()


def until(holds: Callable[[], object]) -> None:
    """Wait for a condition of the outside world."""
    retry(
        retry=retry_if_result(lambda result: not result),
        wait=wait_fixed(0.02),
        stop=stop_after_delay(60),
    )(holds)()


class Clouds:
    """What the two emulators hold."""

    def __init__(self, moto: int, gcs: int) -> None:
        self.moto = moto
        self.gcs = gcs

    def answer(self) -> bool:
        try:
            self.residue()
        except Exception:
            return False
        return True

    def client(self, service: str):
        return boto3.client(
            service, endpoint_url=f"http://127.0.0.1:{self.moto}", region_name="eu-central-1",
            aws_access_key_id="test", aws_secret_access_key="test",
        )  # fmt: skip

    def vpcs(self) -> list[str]:
        found = self.client("ec2").describe_vpcs()["Vpcs"]
        return [vpc["VpcId"] for vpc in found if not vpc["IsDefault"]]

    def residue(self) -> dict[str, list[str]]:
        """Everything of ours by kind, listed service by service; empty when nothing is left."""
        ec2, iam = self.client("ec2"), self.client("iam")
        vpcs = self.vpcs()
        only_ours = [{"Name": "vpc-id", "Values": vpcs or ["none"]}]
        listed = {
            "vpcs": vpcs,
            "subnets": [s["SubnetId"] for s in ec2.describe_subnets(Filters=only_ours)["Subnets"]],
            "security groups": [
                g["GroupId"] for g in ec2.describe_security_groups(Filters=only_ours)["SecurityGroups"]
            ],
            "addresses": [a["AllocationId"] for a in ec2.describe_addresses()["Addresses"]],
            "nat gateways": [
                n["NatGatewayId"]
                for n in ec2.describe_nat_gateways()["NatGateways"]
                if n["State"] != "deleted"
            ],
            "launch templates": [
                t["LaunchTemplateId"] for t in ec2.describe_launch_templates()["LaunchTemplates"]
            ],
            "vpn connections": [
                v["VpnConnectionId"]
                for v in ec2.describe_vpn_connections()["VpnConnections"]
                if v["State"] != "deleted"
            ],
            "vpn gateways": [
                v["VpnGatewayId"]
                for v in ec2.describe_vpn_gateways()["VpnGateways"]
                if v["State"] != "deleted"
            ],
            "customer gateways": [
                c["CustomerGatewayId"]
                for c in ec2.describe_customer_gateways()["CustomerGateways"]
                if c["State"] != "deleted"
            ],
            "groups": [
                g["AutoScalingGroupName"]
                for g in self.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
            ],
            "roles": [r["RoleName"] for r in iam.list_roles()["Roles"]],
            "profiles": [
                p["InstanceProfileName"] for p in iam.list_instance_profiles()["InstanceProfiles"]
            ],
            "secrets": [
                s["Name"] for s in self.client("secretsmanager").list_secrets()["SecretList"]
            ],
            "s3": [b["Name"] for b in self.client("s3").list_buckets()["Buckets"]],
            "gcs": self._gcs_buckets(),
        }
        return {kind: names for kind, names in listed.items() if names}

    def _gcs_buckets(self) -> list[str]:
        url = f"http://127.0.0.1:{self.gcs}/storage/v1/b?project=hybrid-local"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return [bucket["name"] for bucket in json.load(answer).get("items", [])]


def cut_off(user, clouds: Clouds, how: int) -> None:
    """Start `hybrid up` and end it as soon as the VPC is there, which is between two resources."""
    process = user.starts("up")
    until(clouds.vpcs)
    os.killpg(process.pid, how)
    process.communicate()


def test_up_finishes_what_a_killed_up_began_and_down_leaves_nothing(user, clouds):
    cut_off(user, clouds, signal.SIGKILL)
    user.runs("up")
    assert len(clouds.vpcs()) == 1
    assert {"s3", "gcs", "groups", "vpn connections"} <= set(clouds.residue())
    assert "Nothing to change" in user.runs("up").stdout
    user.runs("down")
    assert clouds.residue() == {}
    assert user.processes() == []


def test_down_alone_clears_up_after_a_killed_up(user, clouds):
    cut_off(user, clouds, signal.SIGKILL)
    user.runs("down")
    assert clouds.residue() == {}
    assert user.processes() == []


def test_an_interrupted_up_says_how_to_go_on_and_goes_on(user, clouds):
    process = user.starts("up")
    until(clouds.vpcs)
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate()
    assert process.returncode == 130
    assert "The same command goes on from here" in said and "Traceback" not in said
    user.runs("up")
    user.runs("down")
    assert clouds.residue() == {}


def test_the_second_of_two_ups_is_told_who_is_at_work(user, clouds):
    process = user.starts("up")
    until((user.home / "local" / "lock.json").exists)
    refused = user.runs("up", code=1)
    assert f"in use (`hybrid up`, process {process.pid} of" in refused.stderr
    process.communicate()
    assert process.returncode == 0
    user.runs("down")
