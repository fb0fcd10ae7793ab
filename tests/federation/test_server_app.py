"""The server's rounds against ClientApps in this process; the real network is in test_run.py."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from flwr.app import Context, Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from safetensors.numpy import load_file

from federation import client_app, server_app
from federation.checkpoint import read_records
from federation.errors import FederationError
from federation.protocol import pack, unpack
from federation.run import _prepare
from federation.settings import RunSettings
from recsys.artifact import load_model, save_model
from recsys.data.interactions import load_interactions
from recsys.data.split import leave_one_out
from recsys.evaluate import evaluate
from recsys.model import SequentialRecommender
from recsys.text import hash_texts

if TYPE_CHECKING:
    from tests.federation.conftest import Shop


class LocalGrid:
    """Flower's Grid for sites in this process.

    Parameters
    ----------
    data : dict of str to Path
        Data folder by site that is connected.
    tamper : callable
        Given (site, reply), may change the reply or give another one.
    """

    def __init__(
        self,
        data: dict[str, Path],
        tamper: Callable[[str, Message], Message | None] = lambda site, reply: reply,
    ) -> None:
        self._sites = dict(enumerate(data, start=1))
        self._data = data
        self._tamper = tamper
        self._replies: dict[str, Message] = {}
        self.exchanges = 0
        # Every app process has these, and messages are stamped with them.
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 0

    def get_nodes(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(node_id=node, name=name) for node, name in self._sites.items()]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        self.exchanges += 1
        identities = []
        for message in messages:
            identity = f"{self.exchanges}/{message.metadata.dst_node_id}"
            message.metadata.__dict__["_message_id"] = identity
            site = self._sites[message.metadata.dst_node_id]
            reply = self._tamper(site, self._ask(site, message))
            if reply is not None:
                self._replies[identity] = reply
            identities.append(identity)
        return identities

    def pull_messages(self, identities: Iterable[str]) -> list[Message]:
        return [self._replies.pop(name) for name in identities if name in self._replies]

    def _ask(self, site: str, message: Message) -> Message:
        context = Context(
            run_id=1,
            node_id=message.metadata.dst_node_id,
            node_config={"site": site, "data": str(self._data[site])},
            state=RecordDict(),
            run_config={},
        )
        try:
            return client_app.app(message, context)
        except Exception as error:  # as Flower's own ClientApp process does
            reason = f"{type(error)}:<'{error}'>"
            return Message(Error(code=2, reason=reason), reply_to=message)


def settings_of(run: Path, shop: Shop, **changes: object) -> RunSettings:
    settings = RunSettings(folder=run, sites=tuple(shop.data), **{"rounds": 2} | changes)
    _prepare(settings, shop.initial)
    return settings


def start(settings: RunSettings, grid: LocalGrid) -> None:
    context = SimpleNamespace(run_config=settings.to_config())
    server_app.main(grid, context)


def weights(artifact: Path) -> dict[str, np.ndarray]:
    return load_file(artifact / "weights.safetensors")


def same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    return left.keys() == right.keys() and all((left[name] == right[name]).all() for name in left)


def test_rounds_teach_the_model_what_both_sites_know(shop: Shop, tmp_path: Path) -> None:
    grid = LocalGrid(shop.data)
    start(settings_of(tmp_path, shop, rounds=8, local_epochs=2), grid)
    records = read_records(tmp_path)
    assert [record["round"] for record in records] == list(range(9))
    quality = [record["metrics"]["NDCG@10"] for record in records]
    assert quality[0] < 0.35 < 0.6 < quality[-1]
    losses = [record["loss"] for record in records[1:]]
    assert losses[-1] < losses[0]
    assert grid.exchanges == 9


def test_a_model_of_item_texts_is_trained_by_sites_that_have_no_texts(
    shop: Shop, tmp_path: Path
) -> None:
    loaded = load_model(shop.initial)
    texts = hash_texts([f"kettle number {item}" for item in loaded.items], 64)
    recipe = replace(loaded.recipe, text_buckets=64)
    model = SequentialRecommender(len(loaded.items), recipe, texts)
    initial = save_model(tmp_path / "initial", model, recipe, loaded.items, {})
    start(settings_of(tmp_path / "run", replace(shop, initial=initial)), LocalGrid(shop.data))
    before, after = weights(initial), weights(tmp_path / "run" / "artifact")
    assert (before["text_tower.features"] == after["text_tower.features"]).all()
    assert (before["text_tower.embedding.weight"] != after["text_tower.embedding.weight"]).any()


def test_the_figures_are_those_of_the_artefact_over_all_users(shop: Shop, tmp_path: Path) -> None:
    start(settings_of(tmp_path, shop), LocalGrid(shop.data))
    loaded = load_model(tmp_path / "artifact")
    by_site = {}
    for site, path in shop.data.items():
        interactions = load_interactions(path)
        split = leave_one_out(interactions)
        by_site[site] = {
            part: evaluate(loaded.model, interactions, split, part=part)
            for part in ("validation", "test")
        }
    last = read_records(tmp_path)[-1]
    assert last["metrics"]["users"] == 85
    for name in ("HR@10", "NDCG@10"):
        for part, shown in (("validation", last["metrics"]), ("test", loaded.metrics)):
            north, south = by_site["north"][part], by_site["south"][part]
            expected = (north[name] * 60 + south[name] * 25) / 85
            assert shown[name] == pytest.approx(expected, rel=1e-6)


def test_a_broken_off_run_ends_like_an_undisturbed_one(shop: Shop, tmp_path: Path) -> None:
    start(settings_of(tmp_path / "whole", shop, rounds=3), LocalGrid(shop.data))

    class PowerCut(BaseException):
        pass

    def cut(site: str, reply: Message) -> Message:
        if grid.exchanges == 3:
            raise PowerCut
        return reply

    grid = LocalGrid(shop.data, cut)
    settings = settings_of(tmp_path / "broken", shop, rounds=3)
    with pytest.raises(PowerCut):
        start(settings, grid)
    again = LocalGrid(shop.data)
    start(settings, again)
    assert again.exchanges == 2
    assert same(weights(tmp_path / "whole/artifact"), weights(tmp_path / "broken/artifact"))
    assert [record["round"] for record in read_records(settings.folder)] == [0, 1, 2, 3]


def test_fedprox_keeps_sites_closer_to_the_global_model(shop: Shop, tmp_path: Path) -> None:
    def distance(folder: str, **changes: object) -> float:
        settings = settings_of(tmp_path / folder, shop, rounds=1, local_epochs=3, **changes)
        start(settings, LocalGrid(shop.data))
        before, after = weights(shop.initial), weights(settings.folder / "artifact")
        return sum(float(((after[name] - before[name]) ** 2).sum()) for name in before)

    free = distance("avg")
    assert distance("prox", strategy="fedprox", proximal_mu=10.0) < 0.7 * free


def test_only_the_chosen_share_of_the_sites_trains(shop: Shop, tmp_path: Path) -> None:
    start(settings_of(tmp_path, shop, rounds=4, fraction=0.5, seed=1), LocalGrid(shop.data))
    records = read_records(tmp_path)
    trained = [list(record["trained"]) for record in records[1:]]
    assert all(len(sites) == 1 for sites in trained)
    assert {site for sites in trained for site in sites} == {"north", "south"}
    assert all(set(record["sites"]) == {"north", "south"} for record in records)


def test_a_poisoned_update_is_left_out_and_named(shop: Shop, tmp_path: Path) -> None:
    def poison(site: str, reply: Message) -> Message:
        if site == "south" and "delta" in reply.content:
            sent = unpack(reply.content["delta"])
            next(iter(sent.values())).flat[0] = np.nan
            reply.content["delta"] = pack(sent)
        return reply

    start(settings_of(tmp_path, shop, rounds=1), LocalGrid(shop.data, poison))
    record = read_records(tmp_path)[1]
    assert "Site 'south' sent NaN or infinity" in record["refused"]["south"]
    assert list(record["trained"]) == ["north"]
    assert all(np.isfinite(array).all() for array in weights(tmp_path / "artifact").values())


def test_a_round_without_usable_updates_stops_the_run(shop: Shop, tmp_path: Path) -> None:
    def spoil(site: str, reply: Message) -> Message:
        reply.content["train"]["loss"] = float("nan")
        return reply

    with pytest.raises(FederationError, match="No usable update.*'north'.*'south'"):
        start(settings_of(tmp_path, shop), LocalGrid(shop.data, spoil))
    assert not (tmp_path / "artifact").exists()


def test_a_site_that_fails_is_named_with_its_reason(shop: Shop, tmp_path: Path) -> None:
    data = shop.data | {"south": tmp_path / "nowhere"}
    with pytest.raises(FederationError, match="Site 'south' failed: .*nowhere"):
        start(settings_of(tmp_path / "run", shop), LocalGrid(data))


def test_a_site_with_another_catalogue_is_named(shop: Shop, tmp_path: Path) -> None:
    settings = settings_of(tmp_path, shop)
    items = json.loads((tmp_path / "initial/items.json").read_text())
    (tmp_path / "initial/items.json").write_text(json.dumps(items[::-1]))
    with pytest.raises(FederationError, match="Site 'north' failed: .*catalogue.*'north'"):
        start(settings, LocalGrid(shop.data))


def test_a_silent_site_is_named(shop: Shop, tmp_path: Path) -> None:
    grid = LocalGrid(shop.data, lambda site, reply: reply if site == "north" else None)
    with pytest.raises(FederationError, match="No answer from site 'south' in round 1 within 0.3"):
        start(settings_of(tmp_path, shop, round_timeout=0.3), grid)


def test_a_missing_site_is_named(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_app, "JOIN_SECONDS", 0.2)
    with pytest.raises(FederationError, match="Not connected: site 'south'. Start the SuperNode"):
        start(settings_of(tmp_path, shop), LocalGrid({"north": shop.data["north"]}))


class GridWithALostLink(LocalGrid):
    """Flower's Grid while one site's link is lost in the middle of its first task.

    As the SuperLink does it: the task is answered with an error, and the site is not among the
    nodes until it is back, `absent` looks later.
    """

    def __init__(self, data: dict[str, Path], site: str, absent: float) -> None:
        super().__init__(data, self._lose)
        self._lost, self._absent, self._away = site, absent, False
        self.looks = 0

    def _lose(self, site: str, reply: Message) -> Message:
        if site != self._lost or self.looks:
            return reply
        self._away = True
        return Message(Error(code=5, reason="no heartbeat"), reply_to=self._asked)

    def _ask(self, site: str, message: Message) -> Message:
        self._asked = message
        return super()._ask(site, message)

    def get_nodes(self) -> list[SimpleNamespace]:
        self.looks += self._away
        self._away = self._away and self.looks <= self._absent
        return [n for n in super().get_nodes() if not (self._away and n.name == self._lost)]


def test_a_lost_link_fails_no_site_and_the_work_resumes(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_app, "POLL_SECONDS", 0.001)
    start(settings_of(tmp_path / "whole", shop), LocalGrid(shop.data))
    grid = GridWithALostLink(shop.data, "south", absent=4)
    start(settings_of(tmp_path / "lost", shop), grid)
    assert grid.looks > 4 and grid.exchanges == 4, "one task was given twice"
    whole, lost = (read_records(tmp_path / run) for run in ("whole", "lost"))
    assert [r["loss"] for r in lost[1:]] == [r["loss"] for r in whole[1:]]
    assert lost[1]["bytes_down"] > whole[1]["bytes_down"]


def test_a_link_that_stays_lost_ends_the_run_with_the_sites_name(
    shop: Shop, tmp_path: Path
) -> None:
    grid = GridWithALostLink(shop.data, "south", absent=float("inf"))
    with pytest.raises(FederationError, match="No answer from site 'south' in round 1 within 0.3"):
        start(settings_of(tmp_path, shop, round_timeout=0.3), grid)
