"""An `up` that is cut off anywhere is finished by the next one, and `down` leaves nothing.

AWS and GCS are emulators of the test's own here, so that they can still be asked after `down`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
import yaml
from tenacity import retry, retry_if_result, stop_after_delay, wait_fixed

from cli.local import fake_gcs_program
from infra.clients import Aws, Gcs
from infra.listers import list_all


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
         "-port", str(ports["gcs"]),
         "-external-url", f"http://127.0.0.1:{ports['gcs']}"], **quiet,
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
        stop=stop_after_delay(300),
    )(holds)()


class Clouds:
    """What the two emulators hold."""

    def __init__(self, moto: int, gcs: int) -> None:
        self.aws = Aws("eu-central-1", f"http://127.0.0.1:{moto}")
        self.gcs = Gcs("hybrid-local", f"http://127.0.0.1:{gcs}")

    def answer(self) -> bool:
        try:
            return self.vpcs() == [] == list(self.gcs.client().list_buckets())
        except Exception:
            return False

    def vpcs(self) -> list[str]:
        found = self.aws("ec2").describe_vpcs()["Vpcs"]
        return [vpc["VpcId"] for vpc in found if not vpc["IsDefault"]]

    def groups(self) -> list[str]:
        found = self.aws("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
        return [group["AutoScalingGroupName"] for group in found]

    def residue(self) -> set[str]:
        """Kinds of everything there is, listed service by service, tagged or not."""
        # moto keeps the interfaces of gateways that are deleted; AWS takes them along.
        return {each.kind for each in list_all(self.aws, self.gcs)} - {"network interface"}


def ups_end(user, there: Callable[[], object], how: int) -> subprocess.Popen[str]:
    """Start `hybrid up`, and end it as soon as something is there, which is in mid-work."""
    process = user.starts("up")
    until(there)
    os.killpg(process.pid, how)
    return process


def test_down_alone_clears_up_after_a_killed_up(user, clouds):
    ups_end(user, clouds.vpcs, signal.SIGKILL).communicate()
    # The engine does not write these atomically: a kill could leave one empty, which it cannot read.
    assert list((user.home / "local" / "state").rglob("*.attrs")) == []
    user.runs("down")
    assert clouds.residue() == set()
    assert user.processes() == []
    assert user.open_ports() == [user.ports["moto"], user.ports["gcs"]]  # the test's own


def test_the_second_of_two_ups_is_told_who_is_at_work_and_an_interrupted_one_how_to_go_on(
    user, clouds
):
    process = user.starts("up")
    until((user.home / "local" / "lock.json").exists)
    refused = user.runs("up", code=1)
    assert f"in use (`hybrid up`, process {process.pid} of" in refused.stderr
    until(clouds.vpcs)
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate()
    assert process.returncode == 130, said
    assert "The same command goes on from here" in said and "Traceback" not in said


def test_up_finishes_what_an_interrupted_and_a_killed_up_began(user, clouds):
    ups_end(user, clouds.groups, signal.SIGKILL).communicate()
    said = user.runs("up").stderr
    assert "The lock of local is broken: its owner is dead" in said
    assert len(clouds.vpcs()) == 1
    assert {"bucket", "group", "vpn connection"} <= clouds.residue()
    assert user.asks("orphans")["orphans"] == []


def test_down_refuses_while_a_store_holds_data_and_says_what(user, clouds, tmp_path):
    before = clouds.residue()
    (found,) = clouds.aws("s3").list_buckets()["Buckets"]
    (tmp_path / "data").write_text("seven b")
    user.runs("store", "sync", str(tmp_path), f"s3://{found['Name']}/shop")
    (bucket,) = clouds.gcs.client().list_buckets()
    bucket.blob("models/channels/production").upload_from_string("sha256:0")
    bucket.blob(f"models/manifests/{'0' * 64}.json").upload_from_string("{}")
    refused = user.runs("down", code=1).stderr
    assert f"gs://{bucket.name} holds 2 objects of 10 bytes, the newest of 2" in refused
    assert "among them 1 model (channels: production)" in refused
    assert f"s3://{found['Name']} holds 1 object of 7 bytes" in refused
    assert "Nothing was torn down" in refused and "down local --delete-data" in refused
    assert clouds.residue() == before


def test_down_with_consent_leaves_nothing(user, clouds):
    user.runs("down", "--delete-data", "--yes")
    assert clouds.residue() == set()
    assert user.processes() == []
