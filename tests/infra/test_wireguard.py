"""WireGuard: the plan of the tunnels, what an end tells, and real tunnels between namespaces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.wireguard import INSIDE, SCRIPT, Measurement, parse_measurement, plan_tunnels, public_key
from tests.infra.namespaces import Stream, lacking, rotate, tunnelled

KEY = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="


@given(st.sets(st.integers(0, 2047), max_size=8))
def test_no_two_tunnels_share_a_name_a_port_or_an_address(sites):
    tunnels = [tunnel for site in sites for tunnel in plan_tunnels(site)]
    for of in ("interface", "port"):
        assert len({getattr(tunnel, of) for tunnel in tunnels}) == len(tunnels)
    inside = [address for tunnel in tunnels for address in (tunnel.cloud, tunnel.site)]
    assert len(set(inside)) == len(inside) and all(address in INSIDE for address in inside)
    assert all(len(t.interface) <= 15 and t.port < 65536 for t in tunnels)


def test_one_site_too_many_is_refused():
    with pytest.raises(ValueError, match="site 2049 is one more than 169.254.64.0/18 has"):
        plan_tunnels(2048)


def test_only_a_public_key_is_taken_for_one():
    assert public_key(KEY + "\n") == KEY
    for text in ("", "sh: wg: not found", KEY[:-1]):
        with pytest.raises(ValueError, match="a WireGuard public key has 43 characters"):
            public_key(text)


def test_a_measurement_is_read_from_what_ping_and_wg_print():
    text = (
        "handshake 1000 1042\nhandshake 0 1042\n"
        "5 packets transmitted, 5 received, 0% packet loss, time 803ms\n"
        "rtt min/avg/max/mdev = 10.1/12.5/15.0/1.0 ms\n"
        "500 packets transmitted, 500 received, 0% packet loss, time 130ms\n"
        "rtt min/avg/max/mdev = 0.1/0.2/0.5/0.1 ms, pipe 50, ipg/ewma 0.2/0.3 ms\n"
    )
    assert parse_measurement(text) == Measurement(42, 12.5, 40.0)
    dead = "handshake 0 1042\n5 packets transmitted, 0 received, 100% packet loss, time 803ms\n"
    assert parse_measurement(dead) == Measurement(None, None, None)


@pytest.fixture(scope="module")
def link(tmp_path_factory):
    if reason := lacking():
        pytest.skip(reason)
    with tunnelled(tmp_path_factory.mktemp("keys")) as link:
        yield link


def test_a_stream_loses_no_byte_while_all_keys_are_replaced_twice(link):
    ends, cloud, site = link
    rotate(ends, 1)  # nothing is up yet: the first keys make the link
    first = cloud.run("wg show all public-key", [])
    stream = Stream(cloud, site)
    for generation in (2, 3):
        before = stream.received
        rotate(ends, generation)
        assert stream.received > before, "the stream went on"
    stream.close()
    assert stream.whole and stream.sent > 0
    assert not set(first.split()[1::2]) & set(cloud.run("wg show all public-key", []).split())


def test_private_keys_stay_where_they_were_made_and_old_ones_go(link):
    _, cloud, site = link
    for machine, other in ((cloud, site), (site, cloud)):
        files = sorted(machine.keys.iterdir())
        assert len([file for file in files if file.suffix == ".key"]) == 2
        assert all(file.stat().st_mode & 0o077 == 0 for file in files)
        theirs = b"".join(file.read_bytes() for file in other.keys.iterdir())
        own = [file.read_bytes().strip() for file in files if file.suffix == ".key"]
        assert not any(key in theirs for key in own)


def test_a_tunnel_tells_how_it_does_and_a_cut_one_that_it_is_down(link):
    ends, _, site = link
    measured = ends.site.measure(0)
    assert measured.handshake_age is not None and measured.handshake_age >= 0
    assert measured.latency > 0 and measured.throughput > 0
    interface = ends.site._tunnels[1].interface
    site.run('ip link set dev "$1" down', [interface])
    assert [ends.is_up(tunnel) for tunnel in (0, 1)] == [True, False]


def test_a_machine_that_starts_again_has_its_tunnels_and_routes(link):
    ends, _, site = link
    interfaces = [tunnel.interface for tunnel in ends.site._tunnels]
    for interface in interfaces:
        site.run('ip link delete "$1"', [interface])
    assert not any(map(ends.is_up, (0, 1)))
    site.run(SCRIPT.read_text(), ["resume", "all"])
    # WireGuard begins a handshake with the same peer every five seconds at most.
    assert any(all(map(ends.is_up, (0, 1))) for _ in range(10))
    assert "10.60.0.1 dev " in site.run("ip route", [])
