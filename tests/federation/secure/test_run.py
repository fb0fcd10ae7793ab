"""Rounds under masks, by server and sites in one process."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message
from safetensors.numpy import load_file

from federation.checkpoint import read_records
from federation.errors import FederationError
from federation.protocol import write_model
from federation.secure.site import answer
from federation.settings import RunSettings
from recsys.data.interactions import write_interactions
from tests.federation.conftest import Shop, walks
from tests.federation.local_grid import LocalGrid, settings_of, start


@pytest.fixture(scope="module")
def four(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("four")
    data = {name: folder / name for name in ("east", "north", "south", "west")}
    for seed, path in enumerate(data.values()):
        write_interactions(walks(10 + 5 * seed, seed=seed + 10), path)
    return replace(shop, data=data)


def model_of(run: Path) -> dict[str, np.ndarray]:
    return load_file(run / "artifact" / "weights.safetensors")


def test_the_model_is_that_of_plain_averaging(tmp_path, four: Shop):
    start(settings_of(tmp_path / "plain", four, rounds=1), LocalGrid(four.data))
    grid = LocalGrid(four.data)
    start(settings_of(tmp_path / "masks", four, rounds=1, secure="masks"), grid)
    plain, masked = model_of(tmp_path / "plain"), model_of(tmp_path / "masks")
    for name, wanted in plain.items():
        np.testing.assert_allclose(masked[name], wanted, atol=2e-6)
    assert grid.exchanges == 5  # keys, letters, training, shares, and the final evaluation


def test_a_site_that_drops_out_does_not_count_and_no_reply_holds_its_rows(tmp_path, four: Shop):
    seen: dict[str, set[str]] = {}

    def lose(site: str, reply: Message) -> Message:
        if reply.has_content():
            seen.setdefault(site, set()).update(reply.content.array_records)
            if site == "east" and "masked" in reply.content.array_records:
                del reply.content["masked"]
        return reply

    settings = settings_of(tmp_path / "masks", four, rounds=1, secure="masks")
    start(settings, LocalGrid(four.data, lose))
    _, record = read_records(tmp_path / "masks")
    assert "no usable part of the secure sum" in record["refused"]["east"]
    assert all("delta" not in blobs for blobs in seen.values())
    rest = {site: path for site, path in four.data.items() if site != "east"}
    others = replace(four, data=rest)
    start(settings_of(tmp_path / "plain", others, rounds=1), LocalGrid(rest))
    for name, wanted in model_of(tmp_path / "plain").items():
        np.testing.assert_allclose(model_of(tmp_path / "masks")[name], wanted, atol=2e-6)


def spoiled_by(bad: str, part: str, sent: object) -> Callable[[str, Message], Message]:
    """Has a site send something else in the place of a part."""

    def spoil(site: str, reply: Message) -> Message:
        blobs = reply.content.array_records if site == bad else {}
        if part in blobs:
            reply.content[part] = write_model({"bytes": sent})
        elif "secure" in blobs:
            told = json.loads(blobs["secure"]["bytes"].numpy().tobytes())
            if part in told:
                text = json.dumps(told | {part: sent}).encode()
                reply.content["secure"] = write_model({"bytes": text})
        return reply

    return spoil


@pytest.mark.parametrize(
    ("part", "sent", "sentence"),
    [
        ("keys", {}, "left 'east' out of a secure sum"),
        ("keys", {"east": ["00" * 32] * 2}, "sent no usable part .* a public key that is none"),
        ("keys", {"east": ["12"] * 2}, "sent no usable part .* a public key that is none"),
        ("examples", "many", "sent no usable part .* 'many'"),
        ("letters", {"west": "00"}, "sent no usable part .* its letters are not 4 of 148 bytes"),
        ("letters", ["none"], "sent no usable part .* 'list' object"),
        ("masked", b"12345", "sent 5 bytes as its part of the secure sum: expected"),
    ],
)
def test_a_site_that_sends_no_part_of_a_sum_is_left_out_and_named(
    tmp_path, four: Shop, part, sent, sentence
):
    settings = settings_of(tmp_path, four, rounds=1, secure="masks")
    start(settings, LocalGrid(four.data, spoiled_by("east", part, sent)))
    _, record = read_records(tmp_path)
    assert re.search(f"Site 'east' {sentence}", record["refused"]["east"])
    assert list(record["trained"]) == ["sum of north, south, west"]
    assert re.search(f"goes on without site 'east': .*{sentence}", (tmp_path / "server.log").read_text())


@pytest.mark.parametrize("shares", [{}, {"north": 7}, {"east": "00"}])
def test_whose_vector_is_in_the_sum_need_not_help_to_uncover_it(tmp_path, four: Shop, shares):
    start(settings_of(tmp_path / "plain", four, rounds=1), LocalGrid(four.data))
    settings = settings_of(tmp_path / "masks", four, rounds=1, secure="masks")
    start(settings, LocalGrid(four.data, spoiled_by("east", "shares", shares)))
    for name, wanted in model_of(tmp_path / "plain").items():
        np.testing.assert_allclose(model_of(tmp_path / "masks")[name], wanted, atol=2e-6)
    assert "goes on without site 'east'" in (tmp_path / "masks" / "server.log").read_text()


def test_too_few_sites_end_the_round_without_a_sum(tmp_path, four: Shop):
    def lose(site: str, reply: Message) -> Message:
        if site in ("east", "north") and reply.has_content():
            reply.content.array_records.pop("masked", None)
        return reply

    settings = settings_of(tmp_path, four, rounds=1, secure="masks")
    with pytest.raises(FederationError, match="Only 2 of 4 sites sent their vector; the sum needs"):
        start(settings, LocalGrid(four.data, lose))


def test_another_attempt_at_a_round_gives_the_same_model_under_other_masks(tmp_path, four: Shop):
    sent: list[dict[str, bytes]] = [{}, {}]

    def note(site: str, reply: Message) -> Message:
        if reply.has_content() and "masked" in reply.content.array_records:
            sent[attempt][site] = reply.content["masked"]["bytes"].numpy().tobytes()
        return reply

    settings = settings_of(tmp_path, four, rounds=1, secure="masks", dp_epsilon=8.0)
    grid = LocalGrid(four.data, note)
    attempt = 0
    start(settings, grid)
    first = (tmp_path / "artifact" / "weights.safetensors").read_bytes()
    # As if the server had been killed between the sum and its checkpoint.
    (tmp_path / "checkpoint.safetensors").unlink()
    for path in sorted((tmp_path / "artifact").iterdir()):
        path.unlink()
    (tmp_path / "artifact").rmdir()
    attempt = 1
    start(settings, grid)
    assert (tmp_path / "artifact" / "weights.safetensors").read_bytes() == first
    assert all(sent[0][site] != sent[1][site] for site in four.data)


def test_a_share_of_the_rows_leaves_the_others_as_they_were(tmp_path, four: Shop):
    settings = settings_of(tmp_path, four, rounds=1, secure="masks", secure_rows=0.25)
    start(settings, LocalGrid(four.data))
    before = load_file(four.initial / "weights.safetensors")["item_embedding.weight"]
    after = model_of(tmp_path)["item_embedding.weight"]
    assert (before != after).any(axis=1).sum() == round(0.25 * len(before))


def test_a_site_reveals_for_one_set_of_survivors_only(tmp_path):
    sites = ["a", "b", "c"]
    head = {"session": "s", "sites": sites, "size": 4}

    def told(site: str, **parts: object) -> dict:
        text = json.dumps(head | parts)
        key = site.encode() * 32
        return answer(text, site=site, secret=key, examples=1, folder=tmp_path)

    keys = {site: told(site, stage="keys")["keys"][site] for site in sites}
    letters = {site: told(site, stage="letters", keys=keys)["letters"] for site in sites}
    inbox = {site: letters[site]["a"] for site in sites}
    question = {"stage": "reveal", "keys": keys, "letters": inbox}
    first = told("a", **question, survivors=["a", "b"])
    assert told("a", **question, survivors=["b", "a"]) == first
    with pytest.raises(FederationError, match="asks again for the masks of 's', of other sites"):
        told("a", **question, survivors=["a", "b", "c"])
    with pytest.raises(FederationError, match="question of a secure sum is none"):
        told("a", stage="everything")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"secure": "xor"}, "secure is 'xor': use none, masks or ckks"),
        ({"secure_rows": 0.0}, "secure_rows is 0.0"),
        ({"secure": "masks", "strategy": "scaffold"}, "looks at each site's update"),
        ({"secure": "masks", "keep_updates": True}, "no updates to keep"),
        ({"secure": "masks", "by_row": True}, "hides which rows"),
        ({"secure": "masks", "fraction": 0.3}, "needs 2 to 50 sites in a round"),
    ],
)
def test_settings_that_no_sum_could_follow_are_refused(tmp_path, change, sentence):
    with pytest.raises(FederationError, match=sentence):
        RunSettings(folder=tmp_path, sites=("a", "b", "c"), **change)
