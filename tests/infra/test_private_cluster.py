"""A site's cluster: order of the installation, and secrets that stay secret."""

from __future__ import annotations

import pytest

from infra import k3s
from infra.private_cluster import ClusterHost, PrivateCluster, PrivateClusterArgs

COMMAND = "command:remote:Command"
RELEASE = k3s.release(
    "v1.33.1+k3s1", "amd64", installer_sha256="1" * 64, binary_sha256="2" * 64
)


def host(address: str, role: str) -> ClusterHost:
    return ClusterHost(address, role, "hybrid", "ssh-ed25519 AAAA", 22, "amd64")


HOSTS = [
    host("10.61.0.10", "server"),
    host("10.61.0.11", "server"),
    host("10.61.0.12", "server"),
    host("10.61.0.20", "agent"),
]


def on_hosts() -> PrivateCluster:
    args = PrivateClusterArgs(
        ["berlin"], hosts=HOSTS, site="berlin", releases={"amd64": RELEASE}
    )
    return PrivateCluster("site", args)


def test_every_host_is_installed_and_known_by_its_key(declare):
    _, seen = declare(on_hosts)
    for machine in HOSTS:
        command = seen.inputs[COMMAND][f"site-{machine.address}"]
        assert command["connection"]["host"] == machine.address
        assert command["connection"]["hostKey"] == "ssh-ed25519 AAAA"
        assert "privateKey" not in command["connection"], "the SSH agent holds the keys"
        assert f"INSTALL_K3S_EXEC={machine.role}" in command["create"]


def test_tokens_travel_on_standard_input_only_and_an_agent_gets_its_own(declare, settled):
    made, seen = declare(on_hosts)
    stdin = {"server": "a-random-password\na-random-password\n", "agent": "a-random-password"}
    assert len(seen.inputs["random:index/randomPassword:RandomPassword"]) == 2
    for machine in HOSTS:
        command = seen.inputs[COMMAND][f"site-{machine.address}"]
        assert command["stdin"] == stdin[machine.role]
        assert "stdin" in seen.secrets[COMMAND, f"site-{machine.address}"]
        assert "a-random-password" not in command["create"]
        assert "environment" not in command
    assert settled(made.join_token)[2], "the token must be secret"


def test_who_joins_later_gets_the_agents_token_with_the_hash_of_the_clusters_authority(declare):
    _, seen = declare(on_hosts)
    command = seen.inputs[COMMAND]["site-join"]
    assert command["create"].endswith("cat /var/lib/rancher/k3s/server/agent-token'")
    assert command["connection"]["host"] == "10.61.0.10"


def test_the_kubeconfig_is_secret_not_logged_and_leads_to_the_first_server(declare, settled):
    made, seen = declare(on_hosts)
    for name in ("site-kubeconfig", "site-join"):
        assert seen.inputs[COMMAND][name]["logging"] == "none"
    text, _, secret = settled(made.kubeconfig)
    assert "https://10.61.0.10:6443" in text and secret


def test_a_given_cluster_only_gets_its_namespaces(declare):
    args = PrivateClusterArgs(["berlin", "lyon"], kubeconfig="apiVersion: v1")
    _, seen = declare(lambda: PrivateCluster("local", args))
    namespaces = seen.inputs["kubernetes:core/v1:Namespace"].values()
    # They are declared side by side, so that either may reach the engine first.
    assert sorted(n["metadata"]["name"] for n in namespaces) == ["berlin", "lyon"]
    assert COMMAND not in seen.inputs


def test_a_bundle_is_copied_to_every_host(declare, tmp_path):
    args = PrivateClusterArgs(
        ["berlin"], hosts=HOSTS[:1], site="berlin", releases={"amd64": RELEASE}, bundle=tmp_path
    )
    _, seen = declare(lambda: PrivateCluster("site", args))
    copies = seen.inputs["command:remote:CopyToRemote"].values()
    assert {copy["remotePath"] for copy in copies} == {
        "/var/tmp/hybrid-k3s/install.sh",
        "/var/tmp/hybrid-k3s/k3s-amd64",
    }


@pytest.mark.parametrize("what", ["kubeconfig", "join_token"])
def test_a_preview_knows_no_secret_yet(declare, settled, what):
    made, _ = declare(on_hosts, preview=True)
    _, known, secret = settled(getattr(made, what))
    assert not known and secret
