"""strongSwan's configuration for a site: what it says, and that strongSwan itself takes it."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Callable, Iterator

import pytest

from infra.ipsec import ESP_PROPOSALS, GROUPS, IKE_PROPOSALS, render_swanctl
from tests.infra.charon import charon, lacking

TUNNELS = [
    {"outside_address": "198.51.100.1", "preshared_key": "first.key_of16chars"},
    {"outside_address": "198.51.100.2", "preshared_key": "other.key_of16chars"},
]
CONFIGURATION = render_swanctl("berlin", "203.0.113.10", "10.71.0.0/16", "10.70.0.0/16", TUNNELS)
Load = Callable[[str], subprocess.CompletedProcess]


def test_both_sides_propose_the_same_and_nothing_weak():
    curves = {20: "ecp384", 21: "ecp521"}
    assert {name.rsplit("-", 1)[1] for name in IKE_PROPOSALS} == {curves[n] for n in GROUPS}
    for proposal in IKE_PROPOSALS + ESP_PROPOSALS:
        assert proposal.startswith("aes256gcm16-")
        assert not {"sha1", "modp1024", "modp2048"} & set(proposal.split("-"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"outside_address": ""}, "tunnel 2 of berlin has no address yet: its VPN connection is"),
        ({"preshared_key": None}, "tunnel 2 of berlin has no key yet: its VPN connection is half"),
        ({"preshared_key": 'ends"{the file'}, "the key of tunnel 2 of berlin has characters"),
    ],
)
def test_a_half_created_connection_is_named(change, sentence):
    with pytest.raises(ValueError) as error:
        render_swanctl("berlin", "203.0.113.10", "10.71.0.0/16", "10.70.0.0/16",
                       [TUNNELS[0], TUNNELS[1] | change])  # fmt: skip
    assert str(error.value).startswith(sentence)
    assert "file" not in str(error.value), "no key is told"


@pytest.fixture(scope="module")
def load(tmp_path_factory) -> Iterator[Load]:
    """Give a configuration to `swanctl` and a charon of its own, in a network of its own."""
    if reason := lacking():
        pytest.skip(reason)
    space = f"hybrid-{secrets.token_hex(3)}"
    made = subprocess.run(["ip", "netns", "add", space], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no namespace can be made: {made.stderr.strip()}")
    try:
        with charon(space, tmp_path_factory.mktemp("charon")) as daemon:
            yield daemon.load
    finally:
        subprocess.run(["ip", "netns", "delete", space])


def test_strongswan_takes_the_configuration(load):
    done = load(CONFIGURATION)
    assert done.returncode == 0, done.stderr
    assert "successfully loaded 2 connections, 0 unloaded" in done.stdout
    assert "loaded ike secret 'ike-berlin-2'" in done.stdout


@pytest.mark.parametrize(
    ("right", "wrong"), [("mobike", "nobike"), ("prfsha512-ecp521", "prfsha512-ecp522")]
)
def test_strongswan_would_refuse_a_wrong_word(load, right, wrong):
    assert right in CONFIGURATION
    assert load(CONFIGURATION.replace(right, wrong)).returncode != 0
