"""IPsec's two ends: what AWS is asked, and what a site's gateway keeps to itself."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import boto3
import pytest
from botocore.stub import Stubber

from infra.ipsec import PRESHARED_KEY
from infra.ipsec_link import IpsecCloud, IpsecSite, LinkError, outside_addresses
from infra.wireguard import Measurement

ADDRESSES = ["198.51.100.1", "198.51.100.2"]


@pytest.fixture
def aws():
    """An EC2 client, and its stub, which checks each request against AWS's own model."""
    client = boto3.client("ec2", region_name="eu-central-1", aws_access_key_id="test",
                          aws_secret_access_key="test")  # fmt: skip
    with Stubber(client) as stub:
        yield client, stub
        stub.assert_no_pending_responses()


def described(state: str, *statuses: str) -> dict:
    telemetry = [
        {"OutsideIpAddress": address, "Status": status}
        for address, status in zip(ADDRESSES, statuses, strict=False)
    ]
    return {"VpnConnections": [{"State": state, "VgwTelemetry": telemetry[::-1]}]}


def test_one_tunnel_gets_the_sites_key_and_the_other_is_not_named(aws):
    client, stub = aws
    stub.add_response(
        "modify_vpn_tunnel_options",
        {},
        {
            "VpnConnectionId": "vpn-1",
            "VpnTunnelOutsideIpAddress": ADDRESSES[1],
            "TunnelOptions": {"PreSharedKey": "kabcdef12"},
        },
    )
    IpsecCloud(client, "vpn-1", ADDRESSES).apply(1, 7, "kabcdef12")


def test_a_key_that_aws_would_refuse_is_not_sent(aws):
    with pytest.raises(LinkError, match="made a key that AWS does not allow"):
        IpsecCloud(aws[0], "vpn-1", ADDRESSES).apply(0, 7, "0short")


@pytest.mark.parametrize(
    ("state", "statuses", "up"),
    [
        ("available", ("UP", "DOWN"), [True, False]),
        ("modifying", ("UP", "UP"), [False, False]),
    ],
)
def test_a_tunnel_is_up_when_aws_says_so_and_is_at_rest(aws, state, statuses, up):
    client, stub = aws
    for _ in ADDRESSES:
        stub.add_response("describe_vpn_connections", described(state, *statuses))
    end = IpsecCloud(client, "vpn-1", ADDRESSES)
    assert [end.is_up(tunnel) for tunnel in (0, 1)] == up


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (described("pending"), "vpn-1 of berlin is pending with 0 of 2 tunnels: it is half-created"),
        (described("available", "UP"), "is available with 1 of 2 tunnels: it is half-created"),
        ({"VpnConnections": []}, "vpn-1 of berlin is gone with 0 of 2 tunnels"),
    ],
)
def test_a_half_created_connection_is_named_with_what_to_do(aws, answer, sentence):
    client, stub = aws
    stub.add_response("describe_vpn_connections", answer)
    with pytest.raises(LinkError, match=sentence) as error:
        outside_addresses(client, "vpn-1", "berlin")
    assert "run hybrid up again" in str(error.value)


def test_the_tunnels_of_a_whole_connection_have_one_order(aws):
    client, stub = aws
    stub.add_response("describe_vpn_connections", described("available", "DOWN", "UP"))
    assert outside_addresses(client, "vpn-1", "berlin") == ADDRESSES


class Gateway:
    """Runs the end's script here, with a `swanctl` that only notes what it is called with."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.arguments = folder, []
        (folder / "bin").mkdir()
        (folder / "conf").mkdir()
        program = folder / "bin" / "swanctl"
        program.write_text(
            f'#!/bin/sh\necho "$@" >>{folder}/calls\n'
            'case $1 in --list-sas) echo "  established 42s ago, rekeying"; echo " x: INSTALLED";; '
            "esac\n"
        )
        program.chmod(0o755)

    def run(self, script: str, arguments: Sequence[str]) -> str:
        self.arguments += arguments
        own = {
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
            "IPSEC_KEYS": f"{self.folder}/keys",
            "IPSEC_CONF": f"{self.folder}/conf",
        }
        done = subprocess.run(["sh", "-s", "--", *arguments], input=script, env=own,
                              capture_output=True, text=True, check=True)  # fmt: skip
        return done.stdout


@pytest.fixture
def gateway(tmp_path) -> Gateway:
    return Gateway(tmp_path)


@pytest.fixture
def site(gateway) -> IpsecSite:
    return IpsecSite(gateway.run, "berlin", "203.0.113.10", "10.71.0.0/16", "10.70.0.0/16",
                     ADDRESSES)  # fmt: skip


def test_the_gateway_makes_a_key_once_that_aws_takes(site):
    key = site.prepare(0, 1)
    assert PRESHARED_KEY.fullmatch(key) and len(key) >= 32
    assert site.prepare(0, 1) == key
    assert len({key, site.prepare(1, 1), site.prepare(0, 2)}) == 3


def test_the_gateway_loads_the_key_and_no_argument_or_open_file_holds_it(site, gateway):
    old = site.prepare(1, 1)
    key = site.prepare(1, 2)
    site.apply(1, 2, "")
    file = gateway.folder / "conf" / "hybrid-berlin-2.conf"
    assert f'secret = "{key}"' in file.read_text() and "@KEY@" not in file.read_text()
    assert f"remote_addrs = {ADDRESSES[1]}" in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    calls = (gateway.folder / "calls").read_text()
    assert "--load-all" in calls and "--initiate --child berlin-2" in calls
    assert key not in calls and not any(key in argument for argument in gateway.arguments)
    kept = list((gateway.folder / "keys").iterdir())
    assert [each.read_text() for each in kept] == [key] and old != key


def test_the_gateway_tells_how_old_its_handshake_is(site):
    assert site.is_up(0) and site.measure(0) == Measurement(42, None, None)


def test_a_gateway_with_no_address_in_its_network_says_so(gateway):
    # 240.0.0.0/4 is nobody's.
    site = IpsecSite(gateway.run, "berlin", "203.0.113.10", "240.0.0.0/4", "10.70.0.0/16",
                     ADDRESSES, "10.70.0.9")  # fmt: skip
    with pytest.raises(subprocess.CalledProcessError) as failed:
        site.measure(0)
    assert failed.value.stderr == "it has no address in 240.0.0.0/4 to ping from\n"
