"""What every plugin does alike, through the real engine: errors, secrets, interruptions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pulumi
import pulumi_aws as aws
import pulumi_command as command
import pulumi_random as random
import pytest
from pulumi import automation

from infra.offline.errors import OfflineError
from infra.offline.install import PACKAGES, install


def emulated(url: str) -> pulumi.ResourceOptions:
    provider = aws.Provider(
        "emulated",
        region="eu-west-1",
        access_key="test",
        secret_key="test",
        s3_use_path_style=True,
        skip_credentials_validation=True,
        skip_requesting_account_id=True,
        endpoints=[aws.ProviderEndpointArgs(ec2=url, s3=url, iam=url)],
    )
    return pulumi.ResourceOptions(provider=provider)


def message(stack: Any, operation: str = "preview") -> str:
    with pytest.raises(automation.CommandError) as failed:
        getattr(stack, operation)()
    return str(failed.value)


def test_a_misspelt_property_fails_at_preview(run_stack) -> None:
    def program() -> None:
        aws.s3.BucketVersioning(
            "store",
            bucket="store",
            versioning_configuration={"statuss": "Enabled"},  # type: ignore[arg-type]
            opts=emulated("http://127.0.0.1:9"),
        )

    said = message(run_stack(program))
    assert "versioningConfiguration.statuss" in said
    assert "did you mean 'status'?" in said


def test_a_misspelt_provider_setting_fails_at_preview(run_stack) -> None:
    def program() -> None:
        aws.Provider("emulated", region="eu-west-1", endpoints=[{"ec22": "http://127.0.0.1:9"}])  # type: ignore[list-item]

    assert "did you mean 'ec2'?" in message(run_stack(program))


def test_an_unlisted_type_is_named_with_what_to_do(run_stack) -> None:
    def program() -> None:
        aws.sqs.Queue("jobs", opts=emulated("http://127.0.0.1:9"))

    said = message(run_stack(program))
    assert "'aws:sqs/queue:Queue'" in said
    assert "add an entry for it to TYPES in infra.offline.aws" in said


def test_a_property_that_is_not_carried_out_is_refused(run_stack) -> None:
    def program() -> None:
        aws.ec2.Vpc(
            "network",
            cidr_block="10.0.0.0/16",
            assign_generated_ipv6_cidr_block=True,
            opts=emulated("http://127.0.0.1:9"),
        )

    assert "does not carry out 'assignGeneratedIpv6CidrBlock'" in message(run_stack(program))


def test_the_real_aws_is_never_called(run_stack) -> None:
    def program() -> None:
        aws.s3.Bucket("store", opts=pulumi.ResourceOptions(provider=aws.Provider("real")))

    assert "never calls the real AWS" in message(run_stack(program), "up")


def test_secrets_stay_secret_in_the_state(run_stack, tmp_path: Path) -> None:
    def program() -> None:
        password = random.RandomPassword("password", length=20, special=False)
        told = command.local.Command("told", create="echo $WORD", environment={"WORD": "swordfish"})
        hidden = command.local.Command(
            "hidden", create="echo $WORD", environment={"WORD": pulumi.Output.secret("swordfisch")}
        )
        pulumi.export("password", password.result)
        pulumi.export("told", told.stdout)
        pulumi.export("hidden", hidden.stdout)

    stack = run_stack(program)
    outputs = stack.up().outputs
    assert outputs["hidden"].value == "swordfisch"
    assert {name: output.secret for name, output in outputs.items()} == {
        "password": True,
        "told": False,
        "hidden": True,
    }
    assert stack.refresh().summary.resource_changes.keys() == {"same"}
    state = "".join(file.read_text() for file in (tmp_path / "state").rglob("*.json"))
    assert "swordfish" in state
    assert "swordfisch" not in state
    assert outputs["password"].value not in state


def test_what_an_interrupted_up_left_is_found_again(run_stack, empty_moto) -> None:
    """The state is lost after the cloud made things: the worst moment for a crash."""
    import boto3

    def program() -> None:
        options = emulated(empty_moto.url)
        network = aws.ec2.Vpc("network", cidr_block="10.9.0.0/16", opts=options)
        aws.ec2.Subnet("one", vpc_id=network.id, cidr_block="10.9.1.0/24", opts=options)
        address = aws.ec2.Eip("address", opts=options)
        aws.ec2.SecurityGroup("nodes", vpc_id=network.id, opts=options)
        aws.s3.Bucket("store", opts=options)
        aws.iam.Role("node", assume_role_policy="{}", opts=options)
        pulumi.export("vpc", network.id)
        pulumi.export("address", address.id)

    stack = run_stack(program)
    before = stack.up().outputs
    state = stack.export_stack()
    kept = [each for each in state.deployment["resources"] if "aws:" not in each["type"][:4]]
    state.deployment["resources"] = kept
    stack.import_stack(state)

    after = stack.up().outputs
    assert {name: output.value for name, output in after.items()} == {
        name: output.value for name, output in before.items()
    }
    stack.destroy()
    ec2 = boto3.client(
        "ec2",
        endpoint_url=empty_moto.url,
        region_name="eu-west-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    assert [vpc["IsDefault"] for vpc in ec2.describe_vpcs()["Vpcs"]] == [True]
    assert ec2.describe_addresses()["Addresses"] == []


def test_a_failure_after_creation_is_recorded_and_repaired(run_stack, empty_moto) -> None:
    settings = {"gateway": "igw-none"}

    def program() -> None:
        options = emulated(empty_moto.url)
        aws.ec2.InternetGateway("internet", vpc_id=settings["gateway"], opts=options)

    stack = run_stack(program)
    assert "igw-none" in message(stack, "up")
    made = [each["type"] for each in stack.export_stack().deployment["resources"]]
    assert "aws:ec2/internetGateway:InternetGateway" in made
    settings["gateway"] = ""
    assert stack.up().summary.resource_changes["update"] == 1


def test_install_is_repeatable_and_skips_what_is_there(tmp_path: Path) -> None:
    engine = Path(sys.executable)  # any program will do: it is not run
    assert len(install(engine, tmp_path)) == len(PACKAGES)
    assert install(engine, tmp_path) == []
    launcher = next(tmp_path.glob("plugins/resource-aws-v*/pulumi-resource-aws"))
    launcher.write_text("damaged")
    assert install(engine, tmp_path) == [launcher.parent.name]


def test_install_wants_an_engine(tmp_path: Path) -> None:
    with pytest.raises(OfflineError, match="no Pulumi CLI at .*nowhere: run `make setup`"):
        install(tmp_path / "nowhere", tmp_path)


@pytest.fixture
def process(tmp_path: Path):
    """A plugin that runs, and its parent standing for the engine."""
    install(sys.executable, tmp_path)
    launcher = next(tmp_path.glob("plugins/*/pulumi-resource-random"))
    script = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([{str(launcher)!r}], stdout=subprocess.PIPE, text=True)\n"
        "print(child.pid, int(child.stdout.readline()), flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert parent.stdout is not None
    plugin, _ = map(int, parent.stdout.readline().split())
    yield parent, plugin
    os.killpg(parent.pid, signal.SIGKILL) if parent.poll() is None else None
    parent.wait()


def test_a_plugin_goes_when_its_engine_was_killed(process) -> None:
    import psutil

    parent, plugin = process
    watched = psutil.Process(plugin)
    parent.kill()
    parent.wait()
    psutil.wait_procs([watched], timeout=20)
    assert not psutil.pid_exists(plugin) or watched.status() == psutil.STATUS_ZOMBIE


def test_a_plugin_refuses_an_unknown_package() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "infra.offline", "azure"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("usage: python -m infra.offline {aws|gcp|")
