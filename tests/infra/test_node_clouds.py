"""GPU machines on Google Cloud and Azure join and leave as AWS's do, each asking its own cloud."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

import pytest

from infra import node_boot
from tests.infra.machines import TOKEN, Machine, Metadata, booted

ACCESS = "the-access"


class GcpMetadata(Metadata):
    """Google's: one folder of values, behind a header that no browser sends."""

    def do_GET(self) -> None:
        if self.headers.get("Metadata-Flavor") != "Google":
            return self.answer(403, "")
        return self.tell(self.path.removeprefix("/computeMetadata/v1/instance/"))


class AzureMetadata(Metadata):
    """Azure's: each question with a version, an identity's access for one kind of resource."""

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        query = {name: value for name, (value,) in parse_qs(asked.query).items()}
        if self.headers.get("Metadata") != "true" or "api-version" not in query:
            return self.answer(400, "")
        if asked.path.endswith("/oauth2/token"):
            wanted = {"resource": "https://vault.azure.net", "client_id": "the-identity"}
            if not wanted.items() <= query.items():
                return self.answer(400, "")
        return self.tell(asked.path.removeprefix("/metadata/"))

    def do_POST(self) -> None:
        self.server.told.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.answer(200, "")


@dataclass(frozen=True)
class Cloud:
    """A cloud: what its service answers, where the token is, what it then says of an end."""

    membership: node_boot.Membership
    service: type[Metadata]
    values: dict[str, str]
    secret: str
    answer: dict
    name: str
    provider: str
    zone: str
    ends: dict[str, tuple[str, str]]


def events(kind: str, machine: str) -> str:
    return json.dumps({"Events": [{"EventType": kind, "EventId": "E-1", "Resources": [machine]}]})


CLOUDS = {
    "gcp": Cloud(
        node_boot.on_gcp("hybrid-test", "projects/1/secrets/hybrid-test-join"),
        GcpMetadata,
        {
            "name": "hybrid-test-spot-x1",
            "network-interfaces/0/ip": "10.80.0.2",
            "zone": "projects/1/zones/europe-west4-a",
            "scheduling/preemptible": "TRUE",
            "service-accounts/default/token": json.dumps({"access_token": ACCESS}),
            "preempted": "FALSE",
            "maintenance-event": "NONE",
        },
        "https://secretmanager.googleapis.com/v1/projects/1/secrets/hybrid-test-join"
        "/versions/latest:access",
        {"payload": {"data": b64encode(TOKEN.encode()).decode()}},
        "hybrid-test-spot-x1",
        "gce://hybrid-test/europe-west4-a/hybrid-test-spot-x1",
        "europe-west4-a",
        {
            "the spot machine is taken back": ("preempted", "TRUE"),
            "the machine's host goes into maintenance": (
                "maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE",
            ),
        },
    ),
    "azure": Cloud(
        node_boot.on_azure("the-identity", "https://hybrid.vault.azure.net/", "join-token"),
        AzureMetadata,
        {
            "instance/compute/name": "hybrid_0A1B",
            "instance/compute/osProfile/computerName": "hybridP0A1B",
            "instance/network/interface/0/ipv4/ipAddress/0/privateIpAddress": "10.90.0.4",
            "instance/compute/location": "germanywestcentral",
            "instance/compute/zone": "2",
            "instance/compute/priority": "Spot",
            "instance/compute/resourceId": "/subscriptions/0/virtualMachines/hybrid_0A1B",
            "identity/oauth2/token": json.dumps({"access_token": ACCESS}),
            "scheduledevents": events("Preempt", "another"),
        },
        "https://hybrid.vault.azure.net/secrets/join-token?api-version=7.4",
        {"value": TOKEN, "id": "https://hybrid.vault.azure.net/secrets/join-token/1"},
        "hybridp0a1b",
        "azure:///subscriptions/0/virtualMachines/hybrid_0A1B",
        "germanywestcentral-2",
        {
            "the spot machine is taken back": ("scheduledevents", events("Preempt", "hybrid_0A1B")),
            "the scale set ends the machine": (
                "scheduledevents", events("Terminate", "hybrid_0A1B"),
            ),
        },
    ),
}  # fmt: skip


@pytest.fixture(params=CLOUDS)
def cloud(request) -> Cloud:
    return CLOUDS[request.param]


@pytest.fixture
def machine(cloud, tmp_path) -> Iterator[Machine]:
    (tmp_path / "secret").write_text(json.dumps(cloud.answer))
    # Whoever asks for the secret must show the access that the metadata service gave.
    secret = (
        f'*"{cloud.secret}"*) read -r shown\n'
        f'[ "$shown" = "Authorization: Bearer {ACCESS}" ] && cat "{tmp_path}/secret"; exit;;\n'
    )
    with booted(tmp_path, cloud.membership, cloud.service, cloud.values, secret) as made:
        yield made


def test_a_machine_joins_under_a_name_that_a_node_may_have(cloud, machine):
    done = machine.run("join.sh")
    assert done.returncode == 0, done.stderr
    told = machine.joined
    assert told["server"] == "https://10.61.0.11:6443", "the first server does not answer"
    assert told["node-name"] == cloud.name
    assert told["node-taint"] == ["nvidia.com/gpu=present:NoSchedule"]
    assert told["kubelet-arg"] == [f"provider-id={cloud.provider}"]
    assert set(told["node-label"]) == {
        "hybrid/pool=gpu",
        "hybrid/capacity=spot",
        "hybrid/container-toolkit=missing",
        f"topology.kubernetes.io/zone={cloud.zone}",
        *cloud.membership.labels,
    }
    assert (machine.root / "etc/rancher/k3s/joined").exists()


def test_token_and_access_are_in_no_argument_output_or_environment(machine):
    done = machine.run("join.sh")
    file = machine.root / "etc/rancher/k3s/hybrid-token"
    assert file.read_text() == TOKEN and file.stat().st_mode & 0o777 == 0o600
    calls, record = "".join(machine.calls), (machine.root / "record").read_text()
    for told in (done.stdout, done.stderr, calls, record):
        assert TOKEN not in told and ACCESS not in told


def test_without_a_token_nothing_is_installed_and_joining_is_tried_again(machine):
    kept = (machine.root / "secret").read_text()
    (machine.root / "secret").write_text("")
    assert machine.run("join.sh").returncode != 0
    assert not (machine.root / "record").exists()
    (machine.root / "secret").write_text(kept)
    assert machine.run("join.sh").returncode == 0


def test_a_machine_that_is_to_go_drains_within_its_notice_and_deregisters(cloud, machine):
    for reason, (name, value) in cloud.ends.items():
        machine.service.values.update(cloud.values)
        (machine.root / "calls").unlink(missing_ok=True)
        looked: list[str] = []

        def tell_later(path: str, looked=looked, name=name, value=value) -> None:
            looked.append(path)
            if len(looked) == 6:
                machine.service.values[name] = value

        machine.service.events[:] = [tell_later]
        done = machine.run("watch.sh")
        assert done.returncode == 0 and f"{cloud.name} leaves the cluster: {reason}" in done.stdout
        steps = [call for call in machine.calls if not call.startswith("curl")]
        assert f" drain {cloud.name} " in steps[0]
        assert steps[0].endswith("--grace-period=13 --timeout=20s")
        assert steps[1].endswith(f"delete node {cloud.name} --wait=false")
        assert steps[2] == "systemctl stop --no-block k3s-agent.service"


def test_a_machine_that_shuts_down_unannounced_leaves_the_cluster(cloud, machine):
    """As Google Cloud ends a machine that its group has no more."""
    calls = machine.root / "calls"
    machine.service.events.append(lambda path: asked.append(path))
    asked: list[str] = []
    watching = machine.start("watch.sh")
    while not asked:
        assert watching.poll() is None, watching.communicate()
    watching.terminate()
    told, _ = watching.communicate(timeout=60)
    assert watching.returncode == 0 and "the machine shuts down" in told
    assert f"delete node {cloud.name}" in calls.read_text()


def test_azure_is_told_that_it_need_not_wait(tmp_path):
    cloud = CLOUDS["azure"]
    with booted(tmp_path, cloud.membership, cloud.service, cloud.values) as machine:
        assert machine.run("leave.sh", "test").returncode == 0
        assert machine.service.told == [], "another machine's event is not ours to begin"
        machine.service.values["scheduledevents"] = events("Terminate", "hybrid_0A1B")
        machine.run("leave.sh", "test")
        assert json.loads(machine.service.told[0]) == {"StartRequests": [{"EventId": "E-1"}]}
