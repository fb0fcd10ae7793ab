"""A federation as a user runs it: Flower's own processes, TLS, enrolled keys, real rounds."""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supernode import node_auth_http_interceptor
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from safetensors.numpy import load_file

from federation import client_app, credentials, deployment
from federation.control import CertificateExpiredError, ControlClient
from federation.credentials import issue, locate
from federation.errors import FederationError
from federation.ledger import rounds_kept
from federation.protocol import Task
from federation.run import FederatedResult, federate
from federation.strategies.averaging import FedAvg
from federation.strategies.buffered import FedBuff
from recsys.artifact import load_model
from recsys.data.interactions import load_interactions
from recsys.data.split import leave_one_out
from recsys.finetune import train_local
from recsys.loop import Moments
from tests.federation.servers import PATIENCE, Servers, children, free_port, until

if TYPE_CHECKING:
    from tests.federation.conftest import Shop

@pytest.fixture(scope="module")
def running(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """A SuperLink with both of the shop's sites connected."""
    up = Servers(tmp_path_factory.mktemp("federation"), shop.data)
    try:
        up.start_all()
        yield up
    finally:
        up.stop()


@pytest.fixture(scope="module")
def finished(running: Servers, shop: Shop) -> FederatedResult:
    """Two rounds, undisturbed."""
    return federate(
        running.folder,
        shop.initial,
        running.folder / "run",
        address=running.address,
        sites=shop.data,
        rounds=2,
        seed=3,
        keep_updates=True,
    )


def test_every_round_is_measured_and_the_result_is_a_model(
    finished: FederatedResult, shop: Shop
) -> None:
    assert [record["round"] for record in finished.rounds] == [1, 2]
    weights = sum(
        array.nbytes for array in load_file(shop.initial / "weights.safetensors").values()
    )
    for record in finished.rounds:
        assert set(record["sites"]) == set(record["trained"]) == {"north", "south"}
        assert record["metrics"]["users"] == 85
        assert 0 <= record["metrics"]["NDCG@10"] <= record["metrics"]["HR@10"] <= 1
        assert record["loss"] > 0 and record["seconds"] > 0
        assert 1.9 * weights < record["bytes_up"] < 2 * weights + 20_000
        assert 2 * weights < record["bytes_down"] < 2 * weights + 20_000
    assert finished.rounds[-1]["loss"] < finished.rounds[0]["loss"]
    loaded = load_model(finished.artifact)
    assert loaded.metrics == finished.metrics
    assert loaded.items == load_model(shop.initial).items


def test_the_weights_are_the_sites_average(finished: FederatedResult, shop: Shop) -> None:
    expected = load_model(shop.initial)
    moments = {site: Moments() for site in shop.data}
    for number in (1, 2):
        sent, counts = [], []
        for site, path in shop.data.items():
            local = load_model(shop.initial).model
            local.load_state_dict(expected.model.state_dict())
            train = leave_one_out(load_interactions(path)).train
            task = Task("run", number, number - 1, True, "", "", 1, 0.0, seed=3, fewest_steps=64)
            train_local(
                local, train, expected.recipe, epochs=1, seed=client_app._seed(task, site),
                moments=moments[site],
            )  # fmt: skip
            sent.append({name: w.numpy() for name, w in local.state_dict().items()})
            counts.append(len(train.sequence))
        for name, tensor in expected.model.state_dict().items():
            average = np.average([weights[name] for weights in sent], axis=0, weights=counts)
            tensor.copy_(tensor.new_tensor(average))
    result = load_file(finished.artifact / "weights.safetensors")
    for name, tensor in expected.model.state_dict().items():
        # Adam turns the rounding of gradients that should be zero into steps of some 1e-4.
        np.testing.assert_allclose(result[name], tensor.numpy(), atol=1e-3, err_msg=name)


def test_a_private_round_under_masks_crosses_the_network(running: Servers, shop: Shop) -> None:
    result = federate(
        running.folder, shop.initial, running.folder / "secret", address=running.address,
        sites=shop.data, rounds=1, secure="masks", dp_epsilon=8.0,
    )  # fmt: skip
    (record,) = result.rounds
    assert record["trained"].keys() == {"sum of north, south"}
    assert 7.9 < record["epsilon"] <= 8.0
    assert (result.artifact / "privacy.jsonl").exists()


def test_rounds_that_wait_for_nobody_cross_the_network(running: Servers, shop: Shop) -> None:
    result = federate(
        running.folder, shop.initial, running.folder / "buffered", address=running.address,
        sites=shop.data, rounds=3, strategy="fedbuff", buffer=1, keep_updates=True,
    )  # fmt: skip
    assert [len(record["arrived"]) for record in result.rounds] == [1, 1, 1]
    weights = load_file(shop.initial / "weights.safetensors")
    for _, updates in rounds_kept(running.folder / "buffered"):
        weights, _ = FedBuff(1).aggregate(weights, updates, {})
    made = load_file(result.artifact / "weights.safetensors")
    assert all(made[name].tobytes() == array.tobytes() for name, array in weights.items())


def test_encrypted_changes_cross_the_network(
    finished: FederatedResult, running: Servers, shop: Shop
) -> None:
    result = federate(
        running.folder, shop.initial, running.folder / "encrypted", address=running.address,
        sites=shop.data, rounds=1, seed=3, secure="ckks",
    )  # fmt: skip
    _, updates = next(iter(rounds_kept(running.folder / "run")))
    initial = load_file(shop.initial / "weights.safetensors")
    plain, _ = FedAvg().aggregate(initial, updates, {})
    encrypted = load_file(result.artifact / "weights.safetensors")
    for name, wanted in plain.items():
        np.testing.assert_allclose(encrypted[name], wanted, atol=2e-7, err_msg=name)
    assert result.rounds[0]["trained"].keys() == {"sum of north, south"}


def test_a_finished_run_is_not_repeated(
    finished: FederatedResult, running: Servers, shop: Shop
) -> None:
    again = federate(
        running.folder, shop.initial, running.folder / "run",
        address="127.0.0.1:1",  # nobody listens here: the SuperLink is not asked
        sites=shop.data, rounds=2, seed=3, keep_updates=True,
    )  # fmt: skip
    assert again == finished


def test_a_folder_takes_no_second_run(
    finished: FederatedResult, running: Servers, shop: Shop
) -> None:
    with pytest.raises(FederationError, match="holds a run with rounds 2, not 5: repeat"):
        federate(
            running.folder, shop.initial, running.folder / "run",
            address=running.address, sites=shop.data, rounds=5, seed=3, keep_updates=True,
        )  # fmt: skip


def test_a_run_outlives_its_caller_ctrl_c_stops_it_and_the_next_call_goes_on(
    finished: FederatedResult, running: Servers, shop: Shop
) -> None:
    def call(progress: Callable[[int, int, str], None]) -> FederatedResult:
        return federate(
            running.folder, shop.initial, running.folder / "interrupted",
            address=running.address, sites=shop.data, rounds=2, seed=3, progress=progress,
        )  # fmt: skip

    def vanish(done: int, total: int, text: str) -> None:
        if text.startswith("run "):
            raise ConnectionAbortedError

    def interrupt(done: int, total: int, text: str) -> None:
        if text.startswith("run "):
            raise KeyboardInterrupt

    running.kill("executor-south")  # or the run could be over before it is stopped
    with pytest.raises(ConnectionAbortedError):
        call(vanish)
    number = (running.folder / "interrupted/flower-run").read_text()
    with pytest.raises(KeyboardInterrupt):
        call(interrupt)
    assert (running.folder / "interrupted/flower-run").read_text() == number
    assert not (running.folder / "interrupted/artifact").exists()
    with ControlClient(running.address, running.authority) as control:
        assert control.status(int(number)).outcome == "stopped"
    running.start("executor-south")

    # A SuperLink that was killed and started again keeps its sites.
    running.kill("superlink")
    running.start("superlink")
    running.await_superlink()

    said: list[str] = []
    result = call(lambda done, total, text: said.append(text))
    assert any(text.startswith("round 2 of 2") for text in said)
    for name, expected in load_file(finished.artifact / "weights.safetensors").items():
        result_weights = load_file(result.artifact / "weights.safetensors")
        np.testing.assert_array_equal(result_weights[name], expected)


def test_the_death_of_the_server_and_of_idle_clients_changes_no_bit(
    finished: FederatedResult, running: Servers, shop: Shop
) -> None:
    idle = [
        child
        for site in shop.data
        for child in children(running.processes[f"executor-{site}"].pid, "python")
    ]
    assert len(idle) == len(shop.data)
    for child in idle:
        os.kill(child, signal.SIGKILL)
    said: list[str] = []

    def kill(done: int, total: int, text: str) -> None:
        said.append(text)
        if text.startswith("start:"):
            for child in children(running.processes["server-executor"].pid, "serverapp"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
        if text.startswith("the ServerApp has died"):
            # The ServerApp that goes on ends with the executor that started it.
            running.kill("server-executor")
            running.start("server-executor")

    result = federate(
        running.folder, shop.initial, running.folder / "killed",
        address=running.address, sites=shop.data, rounds=2, seed=3, progress=kill, ask_again=10.0,
    )  # fmt: skip
    death = next(text for text in said if text.startswith("the ServerApp has died"))
    assert "(ended by SIGKILL)" in death
    weights = "weights.safetensors"
    assert (result.artifact / weights).read_bytes() == (finished.artifact / weights).read_bytes()


def test_a_site_that_was_not_enrolled_stays_out(running: Servers, shop: Shop) -> None:
    issue(deployment.credentials_folder(running.folder), ["intruder"])
    command = deployment.supernode_command(
        running.folder,
        "intruder",
        data=shop.data["north"],
        superlink=running.address,
        runtime_port=free_port(),
    )
    running.start("supernode-intruder", command)
    assert running.processes["supernode-intruder"].wait(PATIENCE) != 0
    assert "Failed to activate SuperNode" in running.log("supernode-intruder")
    assert "intruder" not in deployment.sites(running.folder, address=running.address)
    with pytest.raises(FederationError, match="Not enrolled with the SuperLink: intruder"):
        federate(
            running.folder, shop.initial, running.folder / "other",
            address=running.address, sites=["north", "intruder"],
        )  # fmt: skip


@pytest.mark.parametrize(("seconds", "welcome"), [(0, True), (3600, False), (-3600, False)])
def test_a_site_whose_clock_is_an_hour_off_is_refused(
    running: Servers, monkeypatch: pytest.MonkeyPatch, seconds: int, welcome: bool
) -> None:
    monkeypatch.setattr(
        node_auth_http_interceptor, "now",
        lambda: datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds),
    )  # fmt: skip
    files = locate(deployment.credentials_folder(running.folder), ["north"])
    key = load_ssh_private_key(files.sites["north"].private_key.read_bytes(), None)
    node = deployment.sites(running.folder, address=running.address)["north"].node
    refused = contextlib.nullcontext() if welcome else pytest.raises(httpx.HTTPError, match="401")
    with (
        FleetHttpClient.from_server_address(
            running.address, False, files.authority.read_bytes(),
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(key, key.public_key()),
            ],
        ) as client,
        refused,
    ):  # fmt: skip
        client.PullMessages(PullMessagesRequest(node=Node(node_id=node)))


def test_enrolling_again_keeps_sites_and_a_new_key_replaces_the_old(
    running: Servers, shop: Shop
) -> None:
    before = deployment.sites(running.folder, address=running.address)
    assert deployment.enrol(running.folder, shop.data, address=running.address) == before
    spare = deployment.enrol(running.folder, ["spare"], address=running.address)["spare"]
    for path in (deployment.credentials_folder(running.folder) / "sites/spare").iterdir():
        path.unlink()
    rotated = deployment.enrol(running.folder, ["spare"], address=running.address)["spare"]
    assert rotated.node != spare.node and rotated.public_key != spare.public_key
    assert set(deployment.sites(running.folder, address=running.address)) == {*before, "spare"}


def test_an_absent_superlink_is_named(running: Servers, shop: Shop) -> None:
    with pytest.raises(FederationError, match="SuperLink at 127.0.0.1:1 does not answer"):
        federate(
            running.folder, shop.initial, running.folder / "other",
            address="127.0.0.1:1", sites=["north"],
        )  # fmt: skip


def test_a_folder_without_a_model_is_named(running: Servers, tmp_path: Path) -> None:
    with pytest.raises(FederationError, match=f"{tmp_path} is not a model's artefact"):
        federate(
            running.folder, tmp_path, tmp_path / "run", address=running.address, sites=["north"]
        )


def test_a_certificate_that_expires_in_a_run_is_named_and_the_next_call_goes_on(
    finished: FederatedResult, running: Servers, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(progress: Callable[[int, int, str], None] | None = None) -> FederatedResult:
        return federate(
            running.folder, shop.initial, running.folder / "expired", address=running.address,
            sites=shop.data, rounds=2, seed=3, progress=progress,
        )  # fmt: skip

    def start_again(lifetime: datetime.timedelta) -> None:
        """The SuperLink, with a new certificate."""
        files = locate(deployment.credentials_folder(running.folder))
        files.server_certificate.unlink()
        with monkeypatch.context() as patch:
            patch.setattr(credentials, "SERVER_LIFETIME", lifetime)
            issue(deployment.credentials_folder(running.folder), shop.data)
        running.kill("superlink")
        running.start("superlink")

    def expire(done: int, total: int, text: str) -> None:
        if text.startswith("start:"):
            start_again(datetime.timedelta(seconds=-1))

    with pytest.raises(CertificateExpiredError, match="issue the federation's credentials again"):
        call(expire)
    # Flower's processes give up at a refused certificate.
    for site in shop.data:
        until(running.processes[f"supernode-{site}"].poll, f"the end of the SuperNode of {site}")
    start_again(datetime.timedelta(days=1))
    running.supervise()
    running.await_superlink()
    weights = "weights.safetensors"
    result = call()
    assert (result.artifact / weights).read_bytes() == (finished.artifact / weights).read_bytes()
