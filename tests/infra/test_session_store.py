"""The session store on Kubernetes: who reaches it, what it keeps, and that TorchServe gets through."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from cli.sessions import session_store_program
from handlers.errors import NoSessions
from handlers.requests import Event, EventsRequest
from handlers.sessions import open_sessions
from infra.handler_variables import (
    PASSWORD,
    collector_beyond_loopback,
    collector_egress,
    session_variables,
    tracing_variables,
)
from infra.serving import Serving, ServingArgs
from infra.session_pod import SessionStoreArgs
from infra.session_store import SessionStore

ARGS = SessionStoreArgs("sessions", "valkey:1", "private", 64, ("serving", "torchserve"))
DEPLOYMENT, SECRET = "kubernetes:apps/v1:Deployment", "kubernetes:core/v1:Secret"
POLICY = "kubernetes:networking.k8s.io/v1:NetworkPolicy"


@pytest.fixture
def seen(declare):
    """The store and the TorchServe that uses it, with a collector of traces."""

    def program() -> None:
        store = SessionStore("sessions", ARGS)
        collector = "http://10.61.0.9:4318"
        variables = session_variables(store.address, "berlin", 3600, 5)
        serving = ServingArgs(
            "serving", "hybrid/serving:1", "private", 2, "1", "2Gi",
            variables | tracing_variables(collector, 0.5), store, collector,
        )  # fmt: skip
        Serving("serving", serving)

    return declare(program)[1]


def told(seen) -> dict[str, str]:
    """The variables of TorchServe's pods, with what is taken from their secret."""
    (container,) = seen.inputs[DEPLOYMENT]["serving"]["spec"]["template"]["spec"]["containers"]
    secret = seen.inputs[SECRET]["serving"]
    variables = {}
    for row in container["env"]:
        if "value" in row:
            variables[row["name"]] = row["value"]
        else:
            source = row["valueFrom"]["secretKeyRef"]
            assert source["name"] == secret["metadata"]["name"]
            variables[row["name"]] = secret["stringData"][source["key"]]
    return variables


def test_torchserve_alone_reaches_the_store_and_the_store_calls_nobody(seen):
    policy = seen.inputs[POLICY]["sessions"]["spec"]
    (rule,) = policy["ingress"]
    (peer,) = rule["from"]
    namespace = seen.inputs["kubernetes:core/v1:Namespace"]["serving"]["metadata"]["name"]
    labels = peer["namespaceSelector"]["matchLabels"]
    assert labels == {"kubernetes.io/metadata.name": namespace}
    template = seen.inputs[DEPLOYMENT]["serving"]["spec"]["template"]["metadata"]
    assert peer["podSelector"]["matchLabels"].items() <= template["labels"].items()
    # Which an empty list would say too, but Kubernetes drops one: each `up` would put it there again.
    assert "egress" not in policy and "Egress" in policy["policyTypes"]


def test_torchserve_may_call_the_store_and_the_collector(seen):
    *_, store, collector = seen.inputs[POLICY]["serving"]["spec"]["egress"]
    (peer,) = store["to"]
    template = seen.inputs[DEPLOYMENT]["sessions"]["spec"]["template"]["metadata"]
    assert peer["podSelector"]["matchLabels"].items() <= template["labels"].items()
    assert store["ports"] == [{"protocol": "TCP", "port": 6379}]
    assert collector["to"] == [{"ipBlock": {"cidr": "10.61.0.9/32"}}]
    assert collector["ports"] == [{"protocol": "TCP", "port": 4318}]
    assert told(seen)["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://10.61.0.9:4318"
    assert told(seen)["OTEL_TRACES_SAMPLER_ARG"] == "0.5"


def test_a_collector_is_reached_by_name_at_its_port_and_none_by_loopback():
    assert collector_egress("https://traces.example.org") == {
        "ports": [{"protocol": "TCP", "port": 443}]
    }
    for address in ("http://127.0.0.1:4318", "http://localhost:4318", "http://[::1]:4318"):
        assert collector_beyond_loopback(address) is None


def test_the_password_is_in_secrets_only(seen):
    for name in ("sessions", "serving"):
        assert "stringData" in seen.secrets[SECRET, name]
    assert "a-random-password" not in repr(seen.inputs[DEPLOYMENT])


def test_it_is_small_restricted_and_alone(seen):
    spec = seen.inputs[DEPLOYMENT]["sessions"]["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    pod = spec["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["resources"]["limits"] == {"memory": "160Mi"}
    labels = seen.inputs["kubernetes:core/v1:Namespace"]["sessions"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert not seen.inputs.get("kubernetes:core/v1:PersistentVolumeClaim")


def test_another_configuration_replaces_the_pod(declare, seen):
    _, other = declare(lambda: SessionStore("sessions", replace(ARGS, memory_mb=128)))

    def annotations(recorder) -> dict[str, str]:
        template = recorder.inputs[DEPLOYMENT]["sessions"]["spec"]["template"]
        return template["metadata"]["annotations"]

    assert annotations(other) != annotations(seen)


def test_it_runs_beside_torchserve_on_the_gpu_pool_and_holds_no_gpu(declare):
    _, gpu = declare(lambda: SessionStore("sessions", replace(ARGS, placement="gpu-pool")))
    pod = gpu.only(DEPLOYMENT)["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"hybrid/pool": "gpu"} and "runtimeClassName" not in pod


@pytest.fixture
def port(seen, tmp_path: Path) -> Iterator[int]:
    """A real server that runs by the pod's configuration, on a free port of this machine."""
    import redis

    text = seen.inputs[SECRET]["sessions"]["stringData"]["valkey.conf"]
    file = tmp_path / "valkey.conf"
    file.write_text(text.replace("dir /tmp", f"dir {tmp_path}"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    command = [session_store_program(), str(file), "--port", str(free), "--bind", "127.0.0.1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        client = redis.Redis(port=free, password="a-random-password")
        retry(
            retry=retry_if_exception_type(redis.ConnectionError),
            stop=stop_after_delay(20),
            wait=wait_fixed(0.02),
        )(client.ping)()
        assert client.config_get("maxmemory")["maxmemory"] == str(64 * 2**20)
        assert client.config_get("save")["save"] == ""
        yield free
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(session_store_program() is None, reason="neither redis-server nor valkey-server")
def test_a_handler_gets_through_with_the_password_and_nobody_without(seen, port):
    address = told(seen)["HYBRID_SESSIONS"]
    assert address == "redis://sessions.sessions.svc:6379"
    variables = told(seen) | {"HYBRID_SESSIONS": f"redis://127.0.0.1:{port}"}
    event = EventsRequest(user="u", events=(Event(item="i3", id="1"),))
    sessions = open_sessions(variables)
    assert sessions.exchange([event], ["u"]) == [["i3"]]
    assert sessions.site == "berlin"
    sessions.client.close()
    stranger = open_sessions({k: v for k, v in variables.items() if k != PASSWORD})
    with pytest.raises(NoSessions):
        stranger.exchange([event], ["u"])
    stranger.client.close()
