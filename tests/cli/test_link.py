"""`hybrid link`: rotations that survive interruptions, and scripts run where they belong."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
from botocore.stub import Stubber
from click.testing import CliRunner

from cli.errors import CommandError
from cli.link import aws_told, rotate, ssh_runner, ssm_runner
from cli.main import hybrid
from infra.link_rotation import Rotation
from stacks.settings import SiteGateway
from tests.infra.test_link_rotation import Lost, Wire

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExample"


def silent(text: str) -> None:
    """Say nothing."""


def test_a_rotation_that_was_cut_off_goes_on_and_the_next_one_is_new(tmp_path):
    wire, file = Wire(), tmp_path / "link" / "berlin.json"
    wire.fault = (4, True)  # an answer is lost in the middle
    with pytest.raises(Lost):
        rotate(file, wire.link(), 0, silent)
    assert not Rotation.from_json(file.read_text()).done
    assert file.stat().st_mode & 0o077 == 0, "keys may lie in it"
    assert rotate(file, wire.link(), 0, silent) == 1
    assert set(wire.keys.values()) == {1}
    assert rotate(file, wire.link(), 0, silent) == 2
    assert "offer" not in file.read_text() or '"site_offer": ""' in file.read_text()


def test_a_tunnel_that_is_down_stops_the_rotation_with_a_sentence(tmp_path):
    wire, file = Wire(), tmp_path / "berlin.json"
    wire.outages = {1}
    with pytest.raises(CommandError) as error:
        rotate(file, wire.link(), 0, silent)
    assert str(error.value) == (
        "The rotation stopped after 0 s: tunnel 2 is down, so tunnel 1 keeps its keys: mend the "
        "other first. The same command goes on from here."
    )
    wire.outages = set()
    assert rotate(file, wire.link(), 0, silent) == 1


def test_a_step_that_must_wait_is_tried_again(tmp_path):
    wire, link = Wire(), None
    wire.outages = {1}
    answers = iter([False, True, True])

    def is_up(tunnel: int) -> bool:
        if tunnel == 1 and 1 in wire.outages and next(answers):
            wire.outages = set()
        return wire.is_up(tunnel)

    link = replace(wire.link(), is_up=is_up)
    assert rotate(tmp_path / "berlin.json", link, 60, silent, pause=0) == 1


def test_a_broken_file_is_named(tmp_path):
    file = tmp_path / "berlin.json"
    file.write_text("[]")
    with pytest.raises(CommandError, match=f"{file} cannot be used: it holds no rotation"):
        rotate(file, Wire().link(), 0, silent)


@pytest.fixture
def ssh(tmp_path, monkeypatch):
    """An `ssh` that notes its flags and known hosts, and does the remote command here."""
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$@" >{tmp_path}/flags\n'
        f'for each; do case $each in UserKnownHostsFile=*) cat "${{each#*=}}" >{tmp_path}/known;; '
        'esac; last=$each; done\nexec sh -c "$last"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return tmp_path


def test_a_script_reaches_the_sites_gateway_whole_and_only_the_known_host(ssh):
    run = ssh_runner(SiteGateway(address="10.0.0.1", host_key=KEY, port=2222))
    text = 'two words; $HOME "quoted"\nand a line'
    assert run('printf "%s|" "$@"', ["apply", text]) == f"apply|{text}|"
    assert (ssh / "known").read_text() == f"[10.0.0.1]:2222 {KEY}\n"
    flags = (ssh / "flags").read_text()
    assert "StrictHostKeyChecking=yes" in flags and "-p 2222 root@10.0.0.1" in flags


def test_a_failure_on_the_sites_gateway_is_told(ssh):
    run = ssh_runner(SiteGateway(address="10.0.0.1", host_key=KEY))
    with pytest.raises(CommandError, match="The gateway 10.0.0.1 could not start hy0: no device"):
        run("echo no device >&2; exit 3", ["start", "hy0"])


@pytest.mark.parametrize("status", ["Success", "Failed"])
def test_a_script_reaches_the_clouds_gateway_by_systems_manager(status):
    client = boto3.client("ssm", region_name="eu-central-1", aws_access_key_id="test",
                          aws_secret_access_key="test")  # fmt: skip
    command, instance = "0" * 36, "i-0123456789abcdef0"
    answer = {"Status": status, "StandardOutputContent": "up\n", "StandardErrorContent": "no\n"}
    with Stubber(client) as stub:
        stub.add_response(
            "send_command",
            {"Command": {"CommandId": command}},
            {
                "InstanceIds": [instance],
                "DocumentName": "AWS-RunShellScript",
                "Parameters": {"commands": ["set -- probe 'hy 0'\nthe script"]},
            },
        )
        for _ in range(2):
            stub.add_response("get_command_invocation", answer)
        run = ssm_runner(client, instance)
        if status == "Success":
            assert run("the script", ["probe", "hy 0"]) == "up\n"
        else:
            with pytest.raises(CommandError, match=f"{instance} could not probe hy 0 .Failed.: no"):
                run("the script", ["probe", "hy 0"])


@pytest.mark.parametrize("command", ["rotate", "status"])
def test_an_environment_without_real_gateways_is_refused(command):
    done = CliRunner().invoke(hybrid, ["link", command, "local"])
    assert isinstance(done.exception, CommandError) and done.exception.exit_code == 2
    assert f"hybrid link {command} needs gateways that carry packets" in str(done.exception)


def test_what_aws_refuses_is_one_sentence():
    client = boto3.client("ec2", region_name="eu-central-1", aws_access_key_id="test",
                          aws_secret_access_key="test")  # fmt: skip
    with Stubber(client) as stub, pytest.raises(CommandError) as error, aws_told():
        stub.add_client_error("describe_vpn_connections", "RequestExpired", "it is too old")
        client.describe_vpn_connections()
    assert str(error.value).startswith("AWS refused:") and "RequestExpired" in str(error.value)


def test_a_site_whose_gateway_nobody_named_is_told():
    done = CliRunner().invoke(hybrid, ["link", "status", "production"])
    assert str(done.exception).startswith("sites.0.gateway is missing, so nobody can reach")
    done = CliRunner().invoke(hybrid, ["link", "status", "production", "--site", "rome"])
    assert str(done.exception) == (
        "production has no site 'rome': there are site-berlin, site-lyon."
    )


def test_the_plan_names_networks_and_free_ones():
    done = CliRunner().invoke(hybrid, ["link", "plan", "production", "--count", "2"])
    assert done.exit_code == 0 and "site-lyon" in done.output
    assert done.output.rstrip().endswith("Free for more sites: 10.0.0.0/16, 10.1.0.0/16.")


def test_the_networks_of_another_cloud_are_not_checked_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path))
    refused = CliRunner().invoke(hybrid, ["link", "plan", "production-gcp", "--check"]).exception
    assert isinstance(refused, CommandError) and refused.exit_code == 2
    assert "only networks on 'aws' are checked" in str(refused)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["status", "production-azure"], "on 'aws' only so far"),
        (["rotate", "production-gcp"], "on 'aws' only so far"),
        (["config", "site-berlin", "none", "--environment", "production-gcp"], "need BGP"),
    ],
)
def test_what_another_clouds_link_cannot_do_is_said(tmp_path, monkeypatch, arguments, told):
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path))
    refused = CliRunner().invoke(hybrid, ["link", *arguments]).exception
    assert isinstance(refused, CommandError) and refused.exit_code == 2
    assert told in str(refused)


def test_checks_are_counted_by_kind(tmp_path):
    """In a process of its own, since it captures programs."""
    program = Path(sys.executable).with_name("hybrid")
    done = subprocess.run(
        [program, "link", "plan", "local", "--check"],
        env=os.environ | {"HYBRID_HOME": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Checks: 3 of nat, 19 of peering, 8 of route; all hold." in done.stdout
