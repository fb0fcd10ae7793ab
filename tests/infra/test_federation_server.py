"""The SuperLink's Deployment: sites reach the Fleet API, nobody reaches the Control API."""

from __future__ import annotations

import re

import pytest

from infra.federation_server import (
    FederationServer,
    FederationServerArgs,
    containers,
    fleet_proxy,
)
from infra.fleet_proxy import proxy_configuration

ARGS = FederationServerArgs(
    namespace="federation",
    image="hybrid/federation:1",
    proxy_image="nginx:1",
    port=8000,
    storage="5Gi",
    cpu="1",
    memory="2Gi",
    addresses=["10.61.0.10"],
    clients=["10.61.0.0/16", "10.62.0.0/16"],
)


@pytest.fixture
def seen(declare):
    return declare(lambda: FederationServer("federation", ARGS))[1]


def test_the_proxy_passes_the_fleet_api_and_health_and_nothing_else():
    text = proxy_configuration(fleet_proxy(8000))
    assert re.search(r"upstream superlink \{\s+server 127\.0\.0\.1:8000;", text)
    passed = re.findall(r"location (.*?) \{ proxy_pass https://superlink; \}", text)
    assert passed == ["/v1/fleet/", "= /health"]
    assert "location / { return 403; }" in text
    assert text.count("{") == text.count("}")


def test_the_superlink_listens_within_the_pod_only(seen):
    superlink, superexec, proxy = containers(ARGS)
    command = superlink["command"]
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert "--enable-supernode-auth" in command
    assert "ports" not in superlink and "ports" not in superexec
    assert [port["container_port"] for port in proxy["ports"]] == [8443]
    service = seen.only("kubernetes:core/v1:Service")["spec"]
    assert [port["port"] for port in service["ports"]] == [8443]


def test_only_the_sites_may_connect_and_it_calls_nobody(seen):
    policy = seen.inputs["kubernetes:networking.k8s.io/v1:NetworkPolicy"]["federation"]["spec"]
    (rule,) = policy["ingress"]
    assert [block["ipBlock"]["cidr"] for block in rule["from"]] == ARGS.clients
    assert seen.only("kubernetes:core/v1:Service")["spec"]["externalTrafficPolicy"] == "Local"
    assert [port["port"] for rule in policy["egress"] for port in rule["ports"]] == [53, 53]


def test_its_state_survives_the_pod_and_has_one_writer(seen):
    spec = seen.only("kubernetes:apps/v1:Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    claim = seen.only("kubernetes:core/v1:PersistentVolumeClaim")
    assert claim["spec"]["resources"] == {"requests": {"storage": "5Gi"}}
    volumes = {volume["name"]: volume for volume in spec["template"]["spec"]["volumes"]}
    assert volumes["state"]["persistentVolumeClaim"] == {"claimName": "superlink"}
    superlink = spec["template"]["spec"]["containers"][0]
    assert superlink["command"][superlink["command"].index("--database") + 1] == "/state/state.db"


def test_credentials_are_files_and_never_arguments(seen):
    assert "stringData" in seen.secrets["kubernetes:core/v1:Secret", "federation"]
    for container in containers(ARGS):
        assert not any("a-random-password" in word for word in container["command"])
    certificate = seen.only("tls:index/selfSignedCert:SelfSignedCert")
    assert certificate["ipAddresses"] == ["127.0.0.1", "10.61.0.10"]
    assert certificate["dnsNames"] == ["localhost", "superlink.federation.svc"]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_every_container_runs_restricted_and_with_limits(number):
    container = containers(ARGS)[number]
    assert container["security_context"]["read_only_root_filesystem"] is True
    assert container["security_context"]["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["limits"]["memory"]


def test_a_renewed_certificate_restarts_the_pod(seen):
    template = seen.only("kubernetes:apps/v1:Deployment")["spec"]["template"]
    assert len(template["metadata"]["annotations"]["hybrid/certificate"]) == 16


def test_a_preview_does_not_know_the_certificate(declare, settled):
    made, _ = declare(lambda: FederationServer("federation", ARGS), preview=True)
    assert settled(made.certificate)[1] is False
