"""Buffered rounds against ClientApps in this process, one of which may be slow."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from flwr.app import Message, MessageType, MetricRecord

from federation.checkpoint import digest, read_records
from federation.errors import FederationError
from federation.ledger import rounds_kept
from federation.strategies.buffered import FedBuff
from recsys.data.interactions import write_interactions
from tests.federation.conftest import walks
from tests.federation.local_grid import LocalGrid, settings_of, start, weights

if TYPE_CHECKING:
    from tests.federation.conftest import Shop


@pytest.fixture(scope="module")
def three(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    west = tmp_path_factory.mktemp("data") / "west"
    write_interactions(walks(20, seed=3), west)
    return replace(shop, data=shop.data | {"west": west})


class SlowGrid(LocalGrid):
    """Sites of which one answers only when others were asked so many times more.

    `trained` are site and bytes of each answer, `cut` raises an error at a number of pushes.
    """

    def __init__(
        self, data: dict[str, Path], slow: str, lag: int, homes: Path | None = None, cut: int = 0
    ) -> None:
        super().__init__(data, self._note, homes)
        self._slow, self._lag, self._cut = slow, lag, cut
        self._ready: dict[str, int] = {}
        self.trained: list[tuple[str, int, bytes]] = []

    def _note(self, site: str, reply: Message) -> Message:
        if "train" in reply.content:
            number = reply.content["reply"]["number"]
            self.trained.append((site, number, reply.content["delta"]["bytes"].data))
        return reply

    def ask(self, site: str, message: Message) -> Message | None:
        if site == self._slow and message.metadata.message_type == MessageType.TRAIN:
            self._ready[message.metadata.message_id] = self.exchanges + self._lag
        return super().ask(site, message)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        if self.exchanges + 1 == self._cut:
            raise PowerCut
        return super().push_messages(messages)

    def pull_messages(self, identities: Iterable[str]) -> list[Message]:
        there = [each for each in identities if self._ready.get(each, 0) <= self.exchanges]
        return super().pull_messages(there)


class PowerCut(BaseException):
    pass


def replayed(run: Path) -> str:
    """Hash of the model that the updates on record make, in the order on record."""
    present, state = weights(run / "initial"), {}
    for (_, updates), record in zip(rounds_kept(run), read_records(run)[1:], strict=True):
        present, state = FedBuff(2).aggregate(present, updates, state)
        noted = {(site, record["round"] - 1 - version) for site, version in record["arrived"]}
        assert noted == {(update.site, update.staleness) for update in updates}
        assert record["model"] == digest(present)
    return digest(present)


HOW = {"strategy": "fedbuff", "buffer": 2, "rounds": 5}


@pytest.fixture(scope="module")
def undisturbed(three: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed")
    start(settings_of(run, three, keep_updates=True, **HOW), SlowGrid(three.data, "west", 3))
    return run


def test_a_slow_site_stalls_nobody_and_its_update_counts_when_it_comes(undisturbed: Path) -> None:
    records = read_records(undisturbed)
    assert [record["round"] for record in records] == list(range(6))
    assert records[1]["arrived"] == [["north", 0], ["south", 0]]
    assert records[1]["working"] == {"west": 0}
    late = [r["round"] for r in records[1:] if ["west", 0] in r["arrived"]]
    assert late and late[0] > 2, "it was waited for"
    assert set(records[late[0]]["trained"]) > {"west"}
    assert all(np.isfinite(record["loss"]) for record in records[1:])
    # Each version is made of two updates, and the last is measured at all sites.
    assert {len(record["arrived"]) for record in records[1:]} == {2}
    assert set(records[-1]["sites"]) == {"north", "south", "west"}
    assert records[-1]["metrics"]["NDCG@10"] > records[0]["metrics"]["NDCG@10"]


def test_the_updates_on_record_make_the_same_model_again(undisturbed: Path) -> None:
    assert replayed(undisturbed) == digest(weights(undisturbed / "artifact"))
    staleness = [update.staleness for _, updates in rounds_kept(undisturbed) for update in updates]
    assert max(staleness) > 1


@pytest.mark.parametrize("cut", [2, 3, 5])
def test_a_killed_run_goes_on_with_what_had_arrived_and_asks_the_sites_at_work_again(
    three: Shop, undisturbed: Path, tmp_path: Path, cut: int
) -> None:
    settings = settings_of(tmp_path, three, keep_updates=True, **HOW)
    homes = tmp_path / "homes"
    first = SlowGrid(three.data, "west", 3, homes, cut)
    with pytest.raises(PowerCut):
        start(settings, first)
    again = SlowGrid(three.data, "west", 1, homes)
    start(settings, again)
    assert replayed(tmp_path) == digest(weights(tmp_path / "artifact"))
    # What was asked twice was answered with the same bytes, and counts once.
    sent = {(site, number): content for site, number, content in first.trained}
    twice = [each for each in again.trained if each[:2] in sent]
    assert all(sent[site, number] == content for site, number, content in twice)
    arrived = [tuple(pair) for r in read_records(tmp_path)[1:] for pair in r["arrived"]]
    assert len(arrived) == len(set(arrived)) == 10
    assert ("west", 0) in arrived, "the work of the slow site is lost"
    assert [r["arrived"] for r in read_records(tmp_path)[1:cut]] == [
        r["arrived"] for r in read_records(undisturbed)[1:cut]
    ]


def test_an_update_that_had_arrived_is_not_asked_for_again(three: Shop, tmp_path: Path) -> None:
    settings = settings_of(tmp_path, three, keep_updates=True, **HOW | {"buffer": 3, "rounds": 2})
    homes = tmp_path / "homes"

    class Cut(SlowGrid):
        looks = 0

        def pull_messages(self, identities: Iterable[str]) -> list[Message]:
            self.looks += 1
            if self.looks == 2:
                raise PowerCut
            return super().pull_messages(identities)

    first = Cut(three.data, "west", 1, homes)
    with pytest.raises(PowerCut):
        start(settings, first)
    kept = sorted(path.name for path in (tmp_path / "arrivals").iterdir())
    assert kept == ["000001.safetensors", "000002.safetensors"]
    again = SlowGrid(three.data, "west", 0, homes)
    start(settings, again)
    assert [(s, n) for s, n, _ in again.trained if n == 1] == [("west", 1)]
    assert read_records(tmp_path)[1]["arrived"] == [["north", 0], ["south", 0], ["west", 0]]


@pytest.mark.parametrize("how", [{"compression": "int8"}, {"dp_epsilon": 8.0}], ids=str)
def test_it_goes_with_compression_and_with_differential_privacy(
    three: Shop, tmp_path: Path, how: dict
) -> None:
    start(settings_of(tmp_path, three, **HOW | how), SlowGrid(three.data, "west", 3))
    records = read_records(tmp_path)
    assert ["west", 0] in [pair for record in records[2:] for pair in record["arrived"]]
    assert all(record["refused"] == {} for record in records[1:])
    if "dp_epsilon" in how:
        spent = [record["epsilon"] for record in records[1:]]
        assert spent == sorted(spent) and 0 < spent[0] < spent[-1] <= 8
    else:
        assert records[2]["bytes_down"] < records[1]["bytes_down"] / 2


def spoilt(site: str, reply: Message) -> Message:
    """West sends a loss that is no number in its first round, and so does everybody at a run."""
    if site == "west" and "train" in reply.content and reply.content["reply"]["number"] == 1:
        reply.content["train"] = MetricRecord(dict(reply.content["train"]) | {"loss": float("nan")})
    return reply


def test_an_update_that_cannot_be_used_is_named_and_the_site_gets_the_next_version(
    three: Shop, tmp_path: Path
) -> None:
    start(settings_of(tmp_path, three, **HOW | {"rounds": 3}), LocalGrid(three.data, spoilt))
    records = read_records(tmp_path)
    assert re.search("'west' sent a training loss of nan", records[1]["refused"]["west"])
    assert "west" in {site for record in records[2:] for site, _ in record["arrived"]}
    assert "goes on without site 'west'" in (tmp_path / "server.log").read_text()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (spoilt, "Round 1 has 2 of the 3 usable answers that it needs.*'west' sent a training"),
        (
            lambda site, reply: None if site == "west" else reply,
            "Round 1 has 2 of the 3 .*No answer from site 'west' within 0.3 s",
        ),
    ],
)
def test_a_buffer_that_is_never_filled_ends_the_run(
    three: Shop, tmp_path: Path, change: Callable, sentence: str
) -> None:
    settings = settings_of(tmp_path, three, **HOW | {"buffer": 3}, round_timeout=0.1)
    with pytest.raises(FederationError, match=sentence):
        start(settings, LocalGrid(three.data, change))
    assert not (tmp_path / "artifact").exists()
