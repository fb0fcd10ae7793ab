"""An IPsec link that is up: the rendered configuration against a peer that takes what AWS takes.

strongSwan plays both ends, in two network namespaces. ESP runs in its own process, since not every
kernel has it; what is negotiated, and the keys, are the same.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from infra.ipsec import render_swanctl
from infra.ipsec_link import IpsecSite
from tests.infra import namespaces
from tests.infra.charon import LIBIPSEC, PATH, Charon, charon, lacking
from tests.infra.namespaces import Machine, Stream, two_machines

VPC, SITE_NETWORK, GATEWAY = "10.60.0.0/16", "10.61.0.0/16", "192.0.2.2"
TUNNELS = [
    {"outside_address": "192.0.2.1", "preshared_key": "first.key_of16chars"},
    {"outside_address": "192.0.2.3", "preshared_key": "other.key_of16chars"},
]
STRONG = ("aes256gcm16-prfsha384-ecp384", "aes256gcm16-ecp384")


def cloud_end(ike: str, esp: str) -> str:
    """The other end of both tunnels, which waits and accepts exactly these proposals."""
    return "".join(
        f"""connections {{ aws-{number} {{
  version = 2
  local_addrs = {tunnel["outside_address"]}
  proposals = {ike}
  mobike = no
  local {{
    auth = psk
    id = {tunnel["outside_address"]}
  }}
  remote {{
    auth = psk
    id = {GATEWAY}
  }}
  children {{ aws-{number} {{
    local_ts = {VPC}
    remote_ts = {SITE_NETWORK}
    esp_proposals = {esp}
  }} }}
}} }}
secrets {{ ike-{number} {{
  id-cloud = {tunnel["outside_address"]}
  id-site = {GATEWAY}
  secret = "{tunnel["preshared_key"]}"
}} }}
"""
        for number, tunnel in enumerate(TUNNELS, start=1)
    )


@dataclass(frozen=True)
class Ends:
    """The two gateways and the daemons on them."""

    cloud: Machine
    site: Machine
    aws: Charon
    gateway: Charon

    def tunnels(self) -> str:
        """What the site's daemon tells of its tunnels."""
        return self.gateway.swanctl("--list-sas").stdout


@pytest.fixture(scope="module")
def ends(tmp_path_factory) -> Iterator[Ends]:
    if reason := lacking(LIBIPSEC) or namespaces.lacking():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("ipsec")
    with two_machines(folder) as (cloud, site):
        second = ["address", "add", f"{TUNNELS[1]['outside_address']}/24", "dev", "wire"]
        subprocess.run(["ip", "-netns", cloud.name, *second], check=True)
        with (
            charon(cloud.name, folder / "aws", LIBIPSEC) as aws,
            charon(site.name, folder / "gateway", LIBIPSEC) as gateway,
        ):
            assert aws.load(cloud_end(*STRONG)).returncode == 0
            done = gateway.load(render_swanctl("berlin", GATEWAY, SITE_NETWORK, VPC, TUNNELS))
            assert done.returncode == 0, done.stderr
            yield Ends(cloud, site, aws, gateway)


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, f"after a minute it does not hold that {what}"
        time.sleep(0.1)


def both_up(ends: Ends) -> bool:
    return ends.tunnels().count("INSTALLED") == 2


def association(ends: Ends, number: int) -> str:
    """The number that the daemon gave to what was agreed for a tunnel; a new one each time."""
    found = re.search(rf"berlin-{number}: #(\d+), ESTABLISHED", ends.tunnels())
    return found[1] if found else ""


def test_both_tunnels_come_up_by_themselves_with_what_was_agreed(ends):
    until(lambda: both_up(ends), "both tunnels are up")
    told = ends.tunnels()
    assert told.count("ESTABLISHED, IKEv2") == 2
    assert told.count("AES_GCM_16-256/PRF_HMAC_SHA2_384/ECP_384") == 2
    assert told.count("ESP:AES_GCM_16-256") == 2


def test_a_tunnel_tells_its_round_trip_and_throughput_to_a_host_behind_it(ends, tmp_path):
    until(lambda: both_up(ends), "both tunnels are up")
    # In place of the tunnels' own interfaces, which take a kernel with ESP: all go by this one.
    for interface in ("hyipsec1", "hyipsec2"):
        named = ["link", "property", "add", "dev", "ipsec0", "altname", interface]
        subprocess.run(["ip", "-netns", ends.site.name, *named], check=True)
    program = tmp_path / "swanctl"
    real, socket = shutil.which("swanctl", path=PATH), f"unix://{ends.gateway.control}"
    program.write_text(f'#!/bin/sh\nexec {real} "$@" --uri {socket}\n')
    program.chmod(0o755)

    def run(script: str, arguments: Sequence[str]) -> str:
        setting = f"export PATH={tmp_path}:$PATH IPSEC_KEYS={tmp_path}/keys\n"
        return ends.site.run(setting + script, arguments)

    addresses = [tunnel["outside_address"] for tunnel in TUNNELS]
    site = IpsecSite(run, "berlin", GATEWAY, SITE_NETWORK, VPC, addresses, namespaces.CLOUD)
    for tunnel in (0, 1):
        assert site.is_up(tunnel)
        measured = site.measure(tunnel)
        assert measured.handshake_age >= 0
        assert measured.latency > 0 and measured.throughput > 0
    nobody = IpsecSite(run, "berlin", GATEWAY, SITE_NETWORK, VPC, addresses, "10.60.0.77")
    silent = nobody.measure(0)
    assert silent.handshake_age >= 0 and silent.latency is silent.throughput is None


def test_a_stream_loses_nothing_while_each_tunnel_is_cut_and_comes_back(ends):
    until(lambda: both_up(ends), "both tunnels are up")
    stream = Stream(ends.cloud, ends.site)
    until(lambda: stream.received, "the stream flows")
    for number in (1, 2):
        agreed = association(ends, number)
        cut = ends.aws.swanctl("--terminate", "--ike", f"aws-{number}", "--force")
        assert cut.returncode == 0, cut.stderr
        until(lambda: association(ends, number) not in ("", agreed), f"tunnel {number} is new")
        until(lambda: both_up(ends), "both tunnels are up again")
        received = stream.received
        until(lambda: stream.received > received, "the stream goes on")
    stream.close()
    assert stream.whole and stream.sent > 0


def test_an_end_that_offers_less_gets_no_tunnel(ends):
    until(lambda: both_up(ends), "both tunnels are up")
    assert ends.aws.load(cloud_end("aes128-sha1-modp2048", "aes128-sha1")).returncode == 0
    for number in (1, 2):
        ends.aws.swanctl("--terminate", "--ike", f"aws-{number}", "--force")
    until(lambda: "INSTALLED" not in ends.tunnels(), "the tunnels are gone")
    tried = ends.gateway.swanctl("--initiate", "--child", "berlin-1", "--timeout", "10")
    assert tried.returncode != 0
    assert "NO_PROPOSAL_CHOSEN" in tried.stdout + tried.stderr
    assert "INSTALLED" not in ends.tunnels()
