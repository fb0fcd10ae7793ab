"""The server's rounds against ClientApps in this process; the real network is in test_run.py."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from flwr.app import Error, Message, MetricRecord
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

from federation import files, post
from federation.checkpoint import Checkpoint, digest, read_records
from federation.compression import Compression, encode
from federation.errors import FederationError
from federation.protocol import Reply
from recsys.artifact import load_model, save_model
from recsys.data.interactions import load_interactions
from recsys.data.split import leave_one_out
from recsys.evaluate import evaluate
from recsys.model import SequentialRecommender
from recsys.profile import ITEMS, Profile
from recsys.text import hash_texts
from tests.federation.local_grid import LocalGrid, same, settings_of, start, weights

if TYPE_CHECKING:
    from tests.federation.conftest import Shop


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
    profile = Profile(np.zeros(len(loaded.items), np.int8), dict.fromkeys(ITEMS, np.eye(10)[0]))
    initial = save_model(
        tmp_path / "initial", model, recipe, loaded.items, {}, profile=profile
    )
    start(settings_of(tmp_path / "run", replace(shop, initial=initial)), LocalGrid(shop.data))
    assert load_model(tmp_path / "run" / "artifact").profile.shares["history"][0] == 1
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
    assert last["asked"] == ["north", "south"]
    assert last["model"] == digest(weights(tmp_path / "artifact"))
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

    homes = tmp_path / "homes"
    grid = LocalGrid(shop.data, cut, homes)
    settings = settings_of(tmp_path / "broken", shop, rounds=3)
    with pytest.raises(PowerCut):
        start(settings, grid)
    again = LocalGrid(shop.data, homes=homes)
    start(settings, again)
    assert again.exchanges == 2
    assert same(weights(tmp_path / "whole/artifact"), weights(tmp_path / "broken/artifact"))
    assert [record["round"] for record in read_records(settings.folder)] == [0, 1, 2, 3]


def test_a_server_that_was_killed_after_its_last_write_can_be_started_again(
    shop: Shop, tmp_path: Path
) -> None:
    settings = settings_of(tmp_path / "run", shop)
    start(settings, LocalGrid(shop.data, homes=tmp_path / "homes"))
    made = weights(tmp_path / "run/artifact")
    start(settings, LocalGrid(shop.data, homes=tmp_path / "homes"))
    assert same(weights(tmp_path / "run/artifact"), made)


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


def south(change: Callable[[Message], Message | None]) -> Callable[[str, Message], Message | None]:
    """Tamper with what the site "south" sends in rounds, not with the last exchange."""

    def tamper(site: str, reply: Message) -> Message | None:
        trained = not reply.has_error() and "train" in reply.content
        return change(reply) if site == "south" and trained else reply

    return tamper


def rewritten(reply: Message, **changes: object) -> Message:
    """The reply with some of its fields replaced."""
    about = reply.content["reply"]
    task = SimpleNamespace(run=about["run"], number=about["number"])
    sent = Reply.from_content(reply.content, site=about["site"], task=task, limit=1 << 30)
    reply.content = replace(sent, **changes).to_content()
    return reply


def delta_of(array: np.ndarray, name: str = "item_embedding.weight") -> dict[str, bytes]:
    """A change as a broken site may send it: what :func:`encode` refuses to write, too."""
    return {"delta": encode({name: array}, {}, Compression(), {name: array})[0]}


def with_figure(reply: Message, **figures: float) -> Message:
    reply.content["train"] = MetricRecord(dict(reply.content["train"]) | figures)
    return reply


def as_round(reply: Message, number: int) -> Message:
    return rewritten(reply, number=number)


def padded(reply: Message) -> Message:
    return rewritten(reply, blobs={"delta": b"x" * 10_000_000})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda r: with_figure(r, loss=float("nan")), "a training loss of nan"),
        (lambda r: with_figure(r, examples=-3), "trained on -3 interactions"),
        (lambda r: with_figure(r, examples=float("nan")), "trained on nan interactions"),
        (lambda r: with_figure(r, examples=[5]), r"trained on \[5\] interactions"),
        (lambda r: with_figure(r, examples=10**300), "trained on 10+ interactions"),
        (lambda r: with_figure(r, loss=[1.0]), r"a training loss of \[1.0\]"),
        (lambda r: with_figure(r, seconds=float("inf")), "that it trained for inf s"),
        (lambda r: rewritten(r, blobs={}), "no usable update: 'delta'"),
        (lambda r: rewritten(r, blobs={"delta": b"junk"}), "no usable update: "),
        (lambda r: rewritten(r, blobs=delta_of(np.ones((3, 3), np.float32))), "no usable update: "),
        (lambda r: rewritten(r, blobs=delta_of(np.ones(3, np.float32), "x")), "changes 'x'"),
        (lambda r: as_round(r, 7), "round 7 in place of site 'south', .* round 1"),
        (lambda r: rewritten(r, run="another"), "run 'another', round 1 in place of"),
        (lambda r: rewritten(r, site="north"), "sent the reply of site 'north'"),
        (padded, "sent 10,.* bytes, more than the"),
    ],
)
def test_what_cannot_be_used_is_left_out_and_named(
    shop: Shop, tmp_path: Path, change: Callable, sentence: str
) -> None:
    start(settings_of(tmp_path, shop, rounds=1), LocalGrid(shop.data, south(change)))
    record = read_records(tmp_path)[1]
    assert re.search(sentence, record["refused"]["south"])
    assert "site 'south'" in record["refused"]["south"].lower()
    assert re.search(sentence, (tmp_path / "server.log").read_text())
    assert list(record["trained"]) == ["north"]
    assert all(np.isfinite(array).all() for array in weights(tmp_path / "artifact").values())


def test_metrics_that_are_no_numbers_are_left_out(shop: Shop, tmp_path: Path) -> None:
    def spoil(reply: Message) -> Message:
        reply.content["validation"] = MetricRecord({"HR@10": float("nan"), "users": 3})
        return reply

    start(settings_of(tmp_path, shop, rounds=1), LocalGrid(shop.data, south(spoil)))
    first, second = read_records(tmp_path)
    assert list(first["sites"]) == ["north"] and first["metrics"]["users"] == 60
    assert "no usable metrics" in second["refused"]["south"]


def test_a_round_below_its_quorum_stops_the_run(shop: Shop, tmp_path: Path) -> None:
    def spoil(site: str, reply: Message) -> Message:
        return with_figure(reply, loss=float("nan"))

    with pytest.raises(FederationError, match="0 of the 1 usable answers.*'north'.*'south'"):
        start(settings_of(tmp_path, shop), LocalGrid(shop.data, spoil))
    assert not (tmp_path / "artifact").exists()


def test_a_site_that_fails_is_named_with_its_reason(shop: Shop, tmp_path: Path) -> None:
    data = shop.data | {"south": tmp_path / "nowhere"}
    start(settings_of(tmp_path / "half", shop, rounds=1), LocalGrid(data))
    assert re.search(
        "Site 'south' failed: .*nowhere", read_records(tmp_path / "half")[1]["refused"]["south"]
    )
    with pytest.raises(FederationError, match="1 of the 2 usable .*Site 'south' failed: .*nowhere"):
        start(settings_of(tmp_path / "all", shop, quorum=1.0), LocalGrid(data))


def test_a_site_with_another_catalogue_is_named(shop: Shop, tmp_path: Path) -> None:
    settings = settings_of(tmp_path, shop)
    items = json.loads((tmp_path / "initial/items.json").read_text())
    (tmp_path / "initial/items.json").write_text(json.dumps(items[::-1]))
    with pytest.raises(FederationError, match="Site 'north' failed: .*catalogue.*'north'"):
        start(settings, LocalGrid(shop.data))
    assert "goes on without site 'north'" in (tmp_path / "server.log").read_text()


def test_a_silent_site_is_left_out_and_may_come_back(shop: Shop, tmp_path: Path) -> None:
    def late(reply: Message) -> Message | None:
        return None if reply.content["reply"]["number"] == 1 else reply

    settings = settings_of(tmp_path, shop, round_timeout=0.3, ask_again=9)
    start(settings, LocalGrid(shop.data, south(late)))
    _, first, second = read_records(tmp_path)
    assert "No answer from site 'south' within 0.3 s" in first["refused"]["south"]
    assert list(first["trained"]) == ["north"]
    assert list(second["trained"]) == ["north", "south"] and second["refused"] == {}


def test_below_the_quorum_a_round_waits_three_deadlines(shop: Shop, tmp_path: Path) -> None:
    grid = LocalGrid(shop.data, south(lambda reply: None))
    with pytest.raises(FederationError, match="No answer from site 'south' within 0.3 s"):
        start(settings_of(tmp_path, shop, round_timeout=0.1, quorum=1.0), grid)
    assert (tmp_path / "server.log").read_text().count("waits for its quorum: site 'south'") == 2


def test_a_reply_that_was_lost_is_asked_for_again_and_has_the_same_bytes(
    shop: Shop, tmp_path: Path
) -> None:
    start(settings_of(tmp_path / "whole", shop, rounds=1), LocalGrid(shop.data))
    sent = []

    def lose_the_first(reply: Message) -> Message | None:
        sent.append(reply.content["delta"]["bytes"].data)
        return None if len(sent) == 1 else reply

    grid = LocalGrid(shop.data, south(lose_the_first))
    start(settings_of(tmp_path / "lost", shop, rounds=1, ask_again=0.01), grid)
    assert len(sent) > 1 and len(set(sent)) == 1
    assert same(weights(tmp_path / "whole/artifact"), weights(tmp_path / "lost/artifact"))
    assert read_records(tmp_path / "lost")[1]["refused"] == {}


def test_a_missing_site_is_asked_when_it_comes(shop: Shop, tmp_path: Path) -> None:
    grid = LocalGrid(shop.data)
    nodes, looks = grid.get_nodes(), iter(range(9))
    grid.get_nodes = lambda: nodes[: 1 + (next(looks) > 2)]
    start(settings_of(tmp_path, shop, rounds=1), grid)
    assert list(read_records(tmp_path)[1]["trained"]) == ["north", "south"]


def test_sites_take_turns_where_so_few_may_be_at_work(shop: Shop, tmp_path: Path) -> None:
    """North, who is asked first, is silent in the first round until south has had its turn."""
    heard = []

    def silent(site: str, reply: Message) -> Message | None:
        heard.append(site)
        return reply if site == "south" or "south" in heard else None

    start(settings_of(tmp_path / "together", shop), LocalGrid(shop.data))
    grid = LocalGrid(shop.data, silent)
    push, pushed = grid.push_messages, []

    def pushing(messages: list[Message]) -> list[str]:
        pushed.append(len(messages))
        return push(messages)

    grid.push_messages = pushing
    start(settings_of(tmp_path / "turns", shop, at_once=1, ask_again=0.05), grid)
    assert heard[0] == "north" and set(pushed) == {1}
    assert all(record["refused"] == {} for record in read_records(tmp_path / "turns")[1:])
    assert same(weights(tmp_path / "together/artifact"), weights(tmp_path / "turns/artifact"))


class GridThatForgets(LocalGrid):
    """The SuperLink stores a part of the second round's messages, and is killed before it says so."""

    pushed = 0

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        self.pushed += 1
        if self.pushed == 2:
            raise ObjectPushError("a part", 1, "a session")
        return super().push_messages(messages)


def test_messages_on_their_way_in_when_the_superlink_is_killed_are_sent_again(
    shop: Shop, tmp_path: Path
) -> None:
    for name, grid in {"whole": LocalGrid(shop.data), "cut": GridThatForgets(shop.data)}.items():
        start(settings_of(tmp_path / name, shop, ask_again=900), grid)
    assert "they are sent again" in (tmp_path / "cut/server.log").read_text()
    assert same(weights(tmp_path / "cut/artifact"), weights(tmp_path / "whole/artifact"))


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

    def ask(self, site: str, message: Message) -> Message | None:
        self._asked = message
        return super().ask(site, message)

    def get_nodes(self) -> list[SimpleNamespace]:
        self.looks += self._away
        self._away = self._away and self.looks <= self._absent
        return [n for n in super().get_nodes() if not (self._away and n.name == self._lost)]


def test_a_lost_link_fails_no_site_and_the_work_resumes(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(post, "MOST_POLL_SECONDS", 0.001)
    start(settings_of(tmp_path / "whole", shop), LocalGrid(shop.data))
    grid = GridWithALostLink(shop.data, "south", absent=4)
    start(settings_of(tmp_path / "lost", shop), grid)
    assert grid.looks > 4 and grid.exchanges == 4, "one task was given twice"
    whole, lost = (read_records(tmp_path / run) for run in ("whole", "lost"))
    assert [r["loss"] for r in lost[1:]] == [r["loss"] for r in whole[1:]]
    assert lost[1]["bytes_down"] > whole[1]["bytes_down"]


def test_a_link_that_stays_lost_leaves_the_site_out(shop: Shop, tmp_path: Path) -> None:
    grid = GridWithALostLink(shop.data, "south", absent=float("inf"))
    start(settings_of(tmp_path, shop, round_timeout=0.3), grid)
    for record in read_records(tmp_path)[1:]:
        assert "No answer from site 'south' within 0.3 s" in record["refused"]["south"]
        assert list(record["trained"]) == ["north"]


@pytest.mark.parametrize(
    ("file", "how", "exchanges", "done"),
    [
        ("checkpoint", {}, 2, 1),
        ("artifact", {}, 3, 2),
        ("privacy.jsonl", {"dp_epsilon": 8.0}, 1, 1),
    ],
)
def test_a_full_disk_leaves_the_last_checkpoint_and_the_run_goes_on_later(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    file: str, how: dict, exchanges: int, done: int,
) -> None:  # fmt: skip
    start(settings_of(tmp_path / "whole", shop), LocalGrid(shop.data))
    settings = settings_of(tmp_path / "full", shop, **how)
    written = files.os.fsync

    def full(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if path.startswith(f"{settings.folder}/.{file}") and grid.exchanges == exchanges:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written(descriptor)

    homes = tmp_path / "homes"
    grid = LocalGrid(shop.data, homes=homes)
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(FederationError, match=f"{file}.* cannot be written .No space left"):
            start(settings, grid)
    assert "No space left" in (settings.folder / "server.log").read_text()
    assert Checkpoint.load(settings.folder).number == done
    assert not list(settings.folder.glob(f".{file}*")), "half a file is left"
    start(settings, LocalGrid(shop.data, homes=homes))
    ended = weights(settings.folder / "artifact")
    assert how or same(weights(tmp_path / "whole/artifact"), ended), "without noise, the same model"
