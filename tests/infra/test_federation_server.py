"""The SuperLink's Deployment: sites reach the Fleet API, nobody reaches the Control API."""

from __future__ import annotations

import os
import re
import socket
import ssl
import subprocess
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from cli.nginx import nginx_program
from infra.federation_pod import FederationServerArgs, containers, fleet_proxy
from infra.federation_server import FederationServer
from infra.federation_sites import WATCH, revocation_list
from infra.fleet_proxy import proxy_configuration
from tests.infra.authority import pair, site

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
    passed = [
        re.findall(r"location (.*?) \{ proxy_pass https://superlink; \}", server)
        for server in text.split("    server {\n")[1:]
    ]
    assert passed == [["/v1/fleet/", "= /health"], ["= /health"]]
    assert text.count("location / { return 403; }") == 2
    assert f"    client_max_body_size {32 << 20};" in text
    assert text.count("{") == text.count("}")


def test_the_superlink_listens_within_the_pod_only(seen):
    superlink, executor, proxy = containers(ARGS)
    command = superlink["command"]
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert "--enable-supernode-auth" in command
    assert "ports" not in superlink and "ports" not in executor
    assert [port["container_port"] for port in proxy["ports"]] == [8443, 8081]
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
    certificate = seen.inputs["tls:index/selfSignedCert:SelfSignedCert"]["federation"]
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


def test_the_pod_has_the_sites_authority_and_the_list_of_those_removed(declare):
    removed = replace(ARGS, removed_certificates=["0B", "a"])
    made, seen = declare(lambda: FederationServer("federation", removed))
    maps = seen.inputs["kubernetes:core/v1:ConfigMap"]
    files = maps["federation-sites"]["data"]
    assert files["sites.crt"] == pair()[0]
    assert "tls:index/privateKey:PrivateKey" in seen.inputs and "KEY" not in str(maps)
    found = x509.load_pem_x509_crl(files["revoked.crl"].encode())
    assert [entry.serial_number for entry in found] == [10, 11]
    assert found.is_signature_valid(x509.load_pem_x509_certificate(pair()[0].encode()).public_key())
    spec = seen.only("kubernetes:apps/v1:Deployment")["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    # A name that follows from the content would start the pod anew at each removal.
    assert volumes["sites"]["configMap"] == {"name": "superlink-sites"}
    mounts = {mount["name"]: mount for mount in spec["containers"][2]["volumeMounts"]}
    assert mounts["sites"]["mountPath"] == "/sites" and "subPath" not in mounts["sites"]


def test_the_same_list_is_the_same_text():
    assert revocation_list(*pair(), ["a"]) == revocation_list(*pair(), ["A", "a"])
    assert revocation_list(*pair(), ["a"]) != revocation_list(*pair(), [])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.skipif(nginx_program() is None, reason="needs nginx")
def test_a_removed_site_is_refused_as_soon_as_the_list_in_the_pod_changes(tmp_path):
    (tmp_path / "temporary").mkdir()
    fleet, health = free_port(), free_port()
    for serial in (10, 11):
        for kind, text in zip(("crt", "key"), site(serial, "localhost"), strict=True):
            (tmp_path / f"{serial}.{kind}").write_text(text)
    (tmp_path / "sites.crt").write_text(pair()[0])
    listed, configuration = tmp_path / "revoked.crl", tmp_path / "nginx.conf"
    listed.write_text(revocation_list(*pair(), []))
    (tmp_path / "proxy.sh").write_text(WATCH)
    proxy = replace(
        fleet_proxy(1), listen=f"127.0.0.1:{fleet}", folder=str(tmp_path / "temporary"),
        certificate=str(tmp_path / "11.crt"), key=str(tmp_path / "11.key"),
        trusted=str(tmp_path / "sites.crt"), sites_authority=str(tmp_path / "sites.crt"),
        revoked=str(listed), health=health,
    )  # fmt: skip
    configuration.write_text(proxy_configuration(proxy))

    def status(serial: int | None) -> int:
        context = ssl.create_default_context(cafile=str(tmp_path / "sites.crt"))
        context.check_hostname = False
        if serial:
            context.load_cert_chain(tmp_path / f"{serial}.crt", tmp_path / f"{serial}.key")
        url = f"https://127.0.0.1:{fleet}/v1/fleet/"
        return httpx.get(url, verify=context, trust_env=False).status_code

    attempts = Retrying(
        retry=retry_if_exception_type((httpx.TransportError, AssertionError)),
        wait=wait_fixed(0.05), stop=stop_after_delay(30), reraise=True,
    )  # fmt: skip
    command = ["sh", str(tmp_path / "proxy.sh"), str(configuration), str(listed), "0.1"]
    path = os.pathsep.join([os.environ["PATH"], str(Path(nginx_program()).parent)])
    with (tmp_path / "log").open("a") as log:  # nginx opens it once more
        running = subprocess.Popen(command, stderr=log, env=os.environ | {"PATH": path})
    try:
        # There is no SuperLink behind it: 502 is a site that was let through.
        assert attempts(status, 10) == status(11) == 502
        assert status(None) == 401
        answer = httpx.get(f"http://127.0.0.1:{health}/v1/fleet/", trust_env=False)
        assert answer.status_code == 403
        listed.write_text(revocation_list(*pair(), ["a"]))

        def refused() -> None:
            assert status(10) == 401

        attempts(refused)
        assert status(11) == 502
        assert "certificate revoked" in (tmp_path / "log").read_text()
    finally:
        running.terminate()
        assert running.wait(30) == 0
