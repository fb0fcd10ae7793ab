"""The first boot of a GPU machine: what cloud-init is given, and its scripts run by a real shell."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import botocore.session
import pytest
import yaml
from botocore import xform_name

from infra import node_boot
from tests.infra.machines import CLUSTER, TOKEN, Machine, Metadata, booted, unpack

GOLDEN = Path(__file__).parent / "golden"
MEMBERSHIP = node_boot.on_aws(
    region="eu-central-1",
    token_secret="arn:aws:secretsmanager:eu-central-1:111122223333:secret:hybrid-test-join",
    group="hybrid-test-gpu",
    hook="hybrid-leave",
)


MEMBERSHIPS = {
    "aws": MEMBERSHIP,
    "gcp": node_boot.on_gcp("hybrid-test", "projects/1/secrets/hybrid-test-join"),
    "azure": node_boot.on_azure("00000000-1111", "https://hybrid.vault.azure.net/", "join-token"),
}


@pytest.fixture(params=MEMBERSHIPS, scope="module")
def cloud(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def config(cloud) -> dict:
    return yaml.safe_load(node_boot.user_data(CLUSTER, MEMBERSHIPS[cloud]))


@pytest.fixture(scope="module")
def unpacked(cloud, tmp_path_factory) -> Path:
    """The written files in one folder, as a machine has them."""
    text = node_boot.user_data(CLUSTER, MEMBERSHIPS[cloud])
    return unpack(text, tmp_path_factory.mktemp("node"))


def test_the_user_data_are_the_golden_ones(cloud):
    """After a wanted change: HYBRID_WRITE_GOLDEN=1, then read the difference."""
    text, file = node_boot.user_data(CLUSTER, MEMBERSHIPS[cloud]), GOLDEN / f"node_boot_{cloud}.yaml"
    if os.environ.get("HYBRID_WRITE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text()


def test_cloud_init_takes_them(cloud, config):
    text = node_boot.user_data(CLUSTER, MEMBERSHIPS[cloud])
    assert text.startswith("#cloud-config\n") and len(text.encode()) <= 16384
    for file in config["write_files"]:
        assert file["path"].startswith("/") and re.fullmatch("0[0-7]{3}", file["permissions"])
        assert file["content"].endswith("\n")
    written = {file["path"] for file in config["write_files"]}
    for unit in node_boot.UNITS:
        text = next(f["content"] for f in config["write_files"] if f["path"].endswith(unit))
        (program,) = re.findall(r"(?m)^ExecStart=(.*)$", text)
        assert program in written
        assert unit in config["runcmd"][-1]


def test_too_long_user_data_are_refused():
    many = replace(CLUSTER, networks=[f"10.{n}.0.0/16" for n in range(1000)])
    with pytest.raises(ValueError, match=r"user data of \d+ bytes, but the cloud takes 16384"):
        node_boot.user_data(many, MEMBERSHIP)


def test_a_value_cannot_break_out_of_the_settings(tmp_path):
    text = node_boot.settings(CLUSTER, node_boot.on_aws("r", "s", "$(touch here); 'x", "h"))
    (tmp_path / "node.env").write_text(text)
    told = subprocess.run(
        ["bash", "-c", '. ./node.env; printf %s "$GROUP"'],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert told.stdout == "$(touch here); 'x" and not (tmp_path / "here").exists()


def test_the_shells_read_every_script(unpacked):
    for script in unpacked.glob("*.sh"):
        shell = "sh" if script.name == "install-k3s.sh" else "bash"
        assert subprocess.run([shell, "-n", script]).returncode == 0


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck_finds_nothing(unpacked):
    scripts = sorted(script.name for script in unpacked.glob("*.sh") if "k3s" not in script.name)
    done = subprocess.run(
        ["shellcheck", "-x", *scripts], cwd=unpacked, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_takes_the_units(unpacked, tmp_path):
    for name in node_boot.UNITS:
        # It looks for the programs, which are elsewhere here.
        text = (unpacked / name).read_text().replace(node_boot.PROGRAMS, str(unpacked))
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", *(tmp_path / name for name in node_boot.UNITS)],
        capture_output=True, text=True,
    )  # fmt: skip
    own = [line for line in done.stderr.splitlines() if "hybrid-" in line]
    assert done.returncode == 0 and not own, done.stderr


class Imds(Metadata):
    """AWS's: version 2 only, as the machines are set up."""

    def do_PUT(self) -> None:
        asked = self.path == "/latest/api/token" and self.headers.get(
            "X-aws-ec2-metadata-token-ttl-seconds"
        )
        self.answer(200 if asked else 400, "session")

    def do_GET(self) -> None:
        if self.headers.get("X-aws-ec2-metadata-token") != "session":
            return self.answer(401, "")
        return self.tell(self.path.removeprefix("/latest/meta-data/"))


@pytest.fixture
def machine(tmp_path) -> Iterator[Machine]:
    values = {
        "instance-id": "i-0abc",
        "local-ipv4": "10.60.1.2",
        "placement/availability-zone": "eu-central-1a",
        "instance-life-cycle": "spot",
        "autoscaling/target-lifecycle-state": "InService",
    }
    with booted(tmp_path, MEMBERSHIP, Imds, values) as made:
        made.program("aws", f"echo '{TOKEN}'")
        yield made


def test_a_machine_joins_the_server_that_answers_with_labels_and_taints(machine):
    done = machine.run("join.sh")
    assert done.returncode == 0, done.stderr
    told = machine.joined
    assert told["server"] == "https://10.61.0.11:6443", "the first server does not answer"
    assert (told["node-name"], told["node-ip"]) == ("i-0abc", "10.60.1.2")
    assert told["node-taint"] == ["nvidia.com/gpu=present:NoSchedule"]
    assert told["kubelet-arg"] == ["provider-id=aws:///eu-central-1a/i-0abc"]
    assert set(told["node-label"]) == {
        "hybrid/pool=gpu",
        "k8s.amazonaws.com/accelerator=nvidia",
        "hybrid/capacity=spot",
        "hybrid/container-toolkit=missing",
        "topology.kubernetes.io/zone=eu-central-1a",
    }
    assert "INSTALL_K3S_EXEC=agent" in (machine.root / "record").read_text()
    assert (machine.root / "etc/rancher/k3s/joined").exists()


def test_a_machine_with_the_toolkit_says_so(machine):
    machine.program("nvidia-container-runtime")
    machine.run("join.sh")
    assert "hybrid/container-toolkit=present" in machine.joined["node-label"]


def test_the_token_is_for_root_only_and_in_no_argument_output_or_environment(machine):
    done = machine.run("join.sh")
    file = machine.root / "etc/rancher/k3s/hybrid-token"
    assert file.read_text() == TOKEN and file.stat().st_mode & 0o777 == 0o600
    for told in (done.stdout, done.stderr, "".join(machine.calls)):
        assert TOKEN not in told
    assert TOKEN not in (machine.root / "record").read_text()
    assert "session" not in "".join(machine.calls), "nor is the metadata service's token"


def test_without_a_token_nothing_is_installed_and_joining_is_tried_again(machine):
    machine.program("aws", "echo 'no value yet' >&2; exit 254")
    assert machine.run("join.sh").returncode != 0
    assert not (machine.root / "record").exists()
    assert not (machine.root / "etc/rancher/k3s/joined").exists()
    unit = (machine.scripts / "hybrid-join.service").read_text()
    assert "Restart=on-failure" in unit and "StartLimitIntervalSec=0" in unit
    machine.program("aws", f"echo '{TOKEN}'")
    assert machine.run("join.sh").returncode == 0


def test_while_the_link_is_down_the_machine_says_which_servers_it_looked_for(machine):
    machine.program("curl", "exit 7")
    done = machine.run("join.sh")
    assert done.returncode == 1
    assert "no server of the cluster answers over the link: 10.61.0.10 10.61.0.11" in done.stderr
    assert not any(call.startswith("aws") for call in machine.calls)


def test_the_way_to_the_sites_goes_through_the_vpcs_router_in_small_packets(machine):
    route = "default via 10.60.0.1 dev ens5 proto dhcp"
    machine.program("ip", f'case "$*" in *show*) echo "{route}";; esac')
    assert machine.run("route.sh").returncode == 0
    assert machine.calls[1:] == [
        "ip link set dev ens5 mtu 1400",
        "ip route replace 10.61.0.0/16 via 10.60.0.1 dev ens5",
        "ip route replace 10.62.0.0/16 via 10.60.0.1 dev ens5",
    ]


def test_a_machine_without_a_network_tries_again(machine):
    machine.program("ip")
    assert machine.run("route.sh").returncode != 0


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("spot/instance-action", '{"action": "terminate"}', "the spot instance is taken back"),
        ("autoscaling/target-lifecycle-state", "Terminated", "the group ends the instance"),
    ],
)
def test_a_machine_that_is_to_go_drains_deregisters_and_lets_itself_be_ended(
    machine, path, value, reason
):
    looked: list[str] = []

    def tell_at_the_second_look(asked: str) -> None:
        looked.append(asked)
        if len(looked) == 4:
            machine.service.values[path] = value

    machine.service.events.append(tell_at_the_second_look)
    done = machine.run("watch.sh")
    assert done.returncode == 0 and f"i-0abc leaves the cluster: {reason}" in done.stdout
    steps = [call for call in machine.calls if not call.startswith("curl")]
    kubelet = f"--kubeconfig {machine.root}/var/lib/rancher/k3s/agent/kubelet.kubeconfig"
    assert steps[0].startswith(f"k3s kubectl {kubelet} drain i-0abc --ignore-daemonsets ")
    assert steps[0].endswith("--timeout=90s")
    assert steps[1] == f"k3s kubectl {kubelet} delete node i-0abc --wait=false"
    assert steps[2] == "systemctl stop --no-block k3s-agent.service"
    assert steps[3].startswith("aws autoscaling complete-lifecycle-action ")


def test_the_lifecycle_action_is_completed_whatever_fails_before(machine):
    """Else a group that should be empty waits for the end of the hook's time."""
    for name in ("k3s", "systemctl"):
        machine.program(name, "exit 1")
    assert machine.run("leave.sh", "test").returncode == 0
    call = machine.calls[-1].split()
    options = dict(zip(call[3::2], call[4::2], strict=True))
    assert options == {
        "--region": "eu-central-1",
        "--lifecycle-action-result": "CONTINUE",
        "--lifecycle-hook-name": "hybrid-leave",
        "--auto-scaling-group-name": "hybrid-test-gpu",
        "--instance-id": "i-0abc",
    }


def test_the_calls_are_ones_that_aws_has(machine):
    machine.run("join.sh")
    machine.run("leave.sh", "test")
    session = botocore.session.get_session()
    calls = [call.split() for call in machine.calls if call.startswith("aws ")]
    assert len(calls) == 2
    for _, service, operation, *options in calls:
        model = session.get_service_model(service)
        name = next(n for n in model.operation_names if xform_name(n, "-") == operation)
        members = {xform_name(m, "-") for m in model.operation_model(name).input_shape.members}
        own = {option for option in options if option.startswith("--")}
        own -= {"--region", "--query", "--output"}
        assert own <= {f"--{member}" for member in members}
