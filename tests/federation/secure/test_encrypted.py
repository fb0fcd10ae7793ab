"""Encrypted rounds, by server and sites in one process."""

from __future__ import annotations

import json
import re
import stat
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
from federation.secure import homomorphic
from federation.secure.encrypted_site import KeyHolder, text_of
from recsys.data.interactions import write_interactions
from tests.federation.conftest import Shop, walks
from tests.federation.local_grid import LocalGrid, settings_of, start

CKKS = {"rounds": 1, "secure": "ckks"}


@pytest.fixture(scope="module")
def three(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    west = tmp_path_factory.mktemp("data") / "west"
    write_interactions(walks(20, seed=3), west)
    return replace(shop, data=shop.data | {"west": west})


def model_of(run: Path) -> dict[str, np.ndarray]:
    return load_file(run / "artifact" / "weights.safetensors")


def bytes_of(run: Path) -> bytes:
    return (run / "artifact" / "weights.safetensors").read_bytes()


class Watched(LocalGrid):
    """What the server gets to see: all parts of all replies."""

    def __init__(self, data: dict[str, Path], homes: Path | None = None) -> None:
        super().__init__(data, self._note, homes)
        self.seen: list[tuple[str, str, bytes]] = []

    def _note(self, site: str, reply: Message) -> Message:
        if reply.has_content():
            for name, record in reply.content.array_records.items():
                self.seen.append((site, name, record["bytes"].numpy().tobytes()))
        return reply


@pytest.fixture(scope="module")
def run(three: Shop, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Watched]:
    folder = tmp_path_factory.mktemp("ckks")
    grid = Watched(three.data, folder / "homes")
    start(settings_of(folder, three, **CKKS), grid)
    return folder, grid


def test_the_model_is_that_of_plain_averaging(run, three: Shop, tmp_path: Path):
    folder, grid = run
    start(settings_of(tmp_path, three, rounds=1), LocalGrid(three.data))
    for name, wanted in model_of(tmp_path).items():
        np.testing.assert_allclose(model_of(folder)[name], wanted, atol=2e-7)
    # Keys, the key's letters out of one site and into the others, training, the sum, evaluation.
    assert grid.exchanges == 6


def test_the_server_sees_nothing_with_which_it_could_read(run):
    folder, grid = run
    secrets = {path.read_bytes() for path in folder.glob("homes/*/*/*.ckks")}
    assert len(secrets) == 1, "all sites have one key"
    (secret,) = secrets
    modes = {stat.S_IMODE(p.stat().st_mode) for p in folder.glob("homes/*/*/*.ckks")}
    assert modes == {0o600}
    names = {name for _, name, _ in grid.seen}
    assert {"encrypted", "public", "letter to south", "letter to west"} <= names
    assert not names & {"delta", "masked"}
    for _, name, content in grid.seen:
        assert secret[-4096:] not in content, name
        if name == "public":
            with pytest.raises(FederationError, match="cannot be read"):
                homomorphic.decrypt(content, homomorphic.encrypt(content, np.ones(3, np.int32)))


def test_a_server_that_was_killed_goes_on_with_the_same_key_to_the_same_model(
    run, three: Shop, tmp_path: Path
):
    class PowerCut(BaseException):
        pass

    class Cut(LocalGrid):
        def push_messages(self, messages: object) -> list[str]:
            if self.exchanges == 4:  # the sites have trained
                raise PowerCut
            return super().push_messages(messages)

    settings, homes = settings_of(tmp_path, three, **CKKS), tmp_path / "homes"
    with pytest.raises(PowerCut):
        start(settings, Cut(three.data, homes=homes))
    start(settings, LocalGrid(three.data, homes=homes))
    assert bytes_of(tmp_path) == bytes_of(run[0]), "another key, the same sum"
    assert len({path.name for path in homes.glob("*/*/*.ckks")}) == 1


def test_a_site_that_sends_no_ciphertexts_is_left_out_and_named(three: Shop, tmp_path: Path):
    def spoil(site: str, reply: Message) -> Message:
        if site == "west" and reply.has_content() and "encrypted" in reply.content:
            reply.content["encrypted"] = write_model({"bytes": b"\x05\x00\x00\x00noise"})
        return reply

    settings = settings_of(tmp_path, three, **CKKS)
    start(settings, LocalGrid(three.data, spoil))
    assert "'west' sent no usable part" in read_records(tmp_path)[1]["refused"]["west"]
    assert "goes on without site 'west'" in (tmp_path / "server.log").read_text()


def told_by(site: str, **changes: object) -> Callable[[str, Message], Message]:
    """Has a site tell other things than it was about to, where it tells such things at all."""

    def spoil(other: str, reply: Message) -> Message:
        if other == site and reply.has_content() and "secure" in reply.content:
            told = json.loads(reply.content["secure"]["bytes"].numpy().tobytes())
            told |= {name: value for name, value in changes.items() if name in told}
            reply.content["secure"] = write_model({"bytes": json.dumps(told).encode()})
            if "public" in changes:
                reply.content.array_records.pop("public", None)
        return reply

    return spoil


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"key": "00" * 32}, "sent no usable part of the secure sum: .* a public key that is none"),
        ({"examples": [1]}, r"sent no usable part of the secure sum: \[1\] interactions"),
        ({"holds": 3}, "sent no usable part of the secure sum: 'int' object"),
    ],
)
def test_a_site_with_which_no_key_can_be_agreed_on_is_left_out_and_named(
    three: Shop, tmp_path: Path, changes: dict, sentence: str
):
    start(settings_of(tmp_path, three, **CKKS), LocalGrid(three.data, told_by("west", **changes)))
    record = read_records(tmp_path)[1]
    assert re.search(f"Site 'west' {sentence}", record["refused"]["west"])
    assert list(record["trained"]) == ["sum of north, south"]


def test_a_site_that_keeps_the_key_to_itself_is_named(three: Shop, tmp_path: Path):
    grid = LocalGrid(three.data, told_by("north", public=None))
    with pytest.raises(FederationError, match="Site 'north' left 'public' out of a secure sum"):
        start(settings_of(tmp_path, three, **CKKS), grid)


def test_one_site_alone_is_no_sum(three: Shop, tmp_path: Path):
    def lose(site: str, reply: Message) -> Message:
        if site != "north" and reply.has_content():
            reply.content.array_records.pop("encrypted", None)
        return reply

    with pytest.raises(FederationError, match="Only 1 sites sent their part; the sum needs 2"):
        start(settings_of(tmp_path, three, **CKKS | {"quorum": 0.3}), LocalGrid(three.data, lose))


def test_a_letter_that_was_changed_or_a_question_that_is_none_is_refused(tmp_path: Path):
    def holder(site: str) -> KeyHolder:
        return KeyHolder(site, site.encode() * 32, "run", tmp_path / site)

    keys = {site: holder(site).answer(text_of("key"), {}, 1)[0]["key"] for site in ("a", "b")}
    told, parts = holder("a").answer(text_of("deal", name="", to={"b": keys["b"]}), {}, 1)
    letter = parts["letter to b"]
    question = text_of("open", sender="a", key=keys["a"])
    with pytest.raises(FederationError, match="letter of site 'a' to site 'b' was changed"):
        holder("b").answer(question, {"letter": letter[:-1] + b"x"}, 1)
    with pytest.raises(FederationError, match="does not hold the key"):
        holder("b").answer(text_of("decrypt", name=told["name"]), {"sum": b""}, 1)
    assert holder("b").answer(question, {"letter": letter}, 1)[0] == told
    for text in (text_of("tell"), text_of("open"), json.dumps({"scheme": "ckks"})):
        with pytest.raises(FederationError, match="question of an encrypted sum is none"):
            holder("b").answer(text, {}, 1)
    with pytest.raises(FederationError, match="no name of a key"):
        holder("b").answer(text_of("decrypt", name="../a"), {"sum": b""}, 1)
    with pytest.raises(FederationError, match="no identity of a run"):
        KeyHolder("a", b"a" * 32, "../x", tmp_path)
