from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from federation.errors import FederationError
from federation.keystream import derive
from federation.secure.aggregation import (
    Member,
    Session,
    _pair_mask,
    conceal,
    keys_of,
    reveal,
    share,
    unmask,
)


@dataclass
class Run:
    """The protocol among `count` sites; those named drop out before the exchange named."""

    count: int
    size: int = 16
    name: str = "run/1"
    silent: set[int] = field(default_factory=set)
    before_share: set[int] = field(default_factory=set)
    before_vector: set[int] = field(default_factory=set)
    before_reveal: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.sites = tuple(f"site-{number:02}" for number in range(self.count))
        self.session = Session(self.name, self.sites, self.size)
        self.members = {
            site: Member(self.session, site, derive(bytes(32), f"secret of {site}"))
            for site in self.sites
        }

    def left(self, *gone: set[int]) -> list[str]:
        return [site for n, site in enumerate(self.sites) if n not in set().union(*gone)]

    def masked(self, vectors: dict[str, np.ndarray]) -> None:
        """The first three exchanges."""
        self.keys = {site: keys_of(self.members[site]) for site in self.left(self.silent)}
        gone = self.silent | self.before_share
        self.letters = {site: share(self.members[site], self.keys) for site in self.left(gone)}
        self.shared = set(self.letters)
        self.views = {
            site: conceal(self.members[site], self.keys, self.shared, vectors[site])
            for site in self.left(gone, self.before_vector)
        }

    def total(self) -> np.ndarray:
        gone = self.silent | self.before_share | self.before_vector
        revealed = {
            site: reveal(
                self.members[site],
                self.keys,
                {sender: letters[site] for sender, letters in self.letters.items()},
                set(self.views),
            )
            for site in self.left(gone, self.before_reveal)
        }
        return unmask(self.session, self.keys, self.shared, self.views, revealed)

    def random_vectors(self, seed: int) -> dict[str, np.ndarray]:
        generator = np.random.default_rng(seed)
        return {
            site: generator.integers(0, 2**32, self.size, dtype=np.uint32) for site in self.sites
        }


@settings(max_examples=25, deadline=None)
@given(data=st.data(), count=st.integers(2, 9), seed=st.integers(0, 2**32))
def test_the_sum_is_exact_whoever_drops_out_above_the_threshold(data, count, seed):
    when = data.draw(st.lists(st.integers(0, 7), min_size=count, max_size=count))
    groups = [{n for n, stage in enumerate(when) if stage == number} for number in range(4)]
    run = Run(count, size=8, silent=groups[0], before_share=groups[1], before_vector=groups[2],
              before_reveal=groups[3])  # fmt: skip
    assume(count - sum(map(len, groups)) >= run.session.threshold)
    vectors = run.random_vectors(seed)
    run.masked(vectors)
    wanted = sum((vectors[site] for site in run.views), np.zeros(8, np.uint32))
    assert (run.total() == wanted).all()


def test_fifty_sites_with_every_kind_of_drop_out():
    run = Run(50, silent={0, 1}, before_share={10, 11, 12}, before_vector=set(range(20, 30)),
              before_reveal={40, 41})  # fmt: skip
    vectors = run.random_vectors(1)
    run.masked(vectors)
    assert len(run.views) == 35
    assert (run.total() == sum(vectors[site] for site in run.views)).all()


@pytest.mark.parametrize("stage", ["silent", "before_share", "before_vector", "before_reveal"])
def test_below_the_threshold_the_sum_is_refused(stage):
    run = Run(5, **{stage: {0, 1, 2}})
    with pytest.raises(FederationError, match="Only 2 of 5 sites .*; the sum needs 3, so it was"):
        run.masked(run.random_vectors(1))
        run.total()


@pytest.mark.parametrize("count", [0, 1, 51])
def test_a_sum_of_too_few_or_too_many_is_refused(count):
    with pytest.raises(FederationError, match=f"needs 2 to 50 sites, not {count}"):
        Run(count)


def test_what_the_server_has_of_a_site_is_uniform_and_unlike_its_vector():
    # A sparse vector: the masked one must not tell which of its rows are not zero.
    run = Run(3, size=40_000)
    vectors = run.random_vectors(1)
    vectors["site-00"] = np.zeros(run.size, np.uint32)
    vectors["site-00"][::100] = 5
    run.masked(vectors)
    view = run.views["site-00"]
    assert stats.kstest(view / 2.0**32, "uniform").pvalue > 0.001
    rest = np.delete(view, np.s_[::100])
    assert stats.ks_2samp(view[::100], rest).pvalue > 0.001
    counts = np.bincount(view.view(np.uint8), minlength=256)
    assert stats.chisquare(counts).pvalue > 0.001


def test_views_of_two_inputs_with_one_sum_are_distributed_alike():
    # Over many sessions: one coordinate of one site, whose input is 0 in half of them and
    # 3,000,000,000 in the others, the other site's making up for it.
    views: dict[int, list[int]] = {0: [], 3_000_000_000: []}
    for mine, seen in views.items():
        for number in range(150):
            run = Run(2, size=1, name=f"{mine}/{number}")
            first = np.array([mine], np.uint32)
            run.masked({"site-00": first, "site-01": np.uint32(7) - first})
            seen.append(int(run.views["site-00"][0]))
    assert stats.ks_2samp(*views.values()).pvalue > 0.001


def test_the_masks_of_pairs_alone_do_not_uncover_a_site():
    # The server thought that a site was lost, learned its key for the masks of pairs, and then
    # its vector arrives after all: its own mask still covers it.
    run = Run(3, before_vector={0})
    vectors = run.random_vectors(1)
    run.masked(vectors)
    assert (run.total() == vectors["site-01"] + vectors["site-02"]).all()
    late = conceal(run.members["site-00"], run.keys, run.shared, vectors["site-00"])
    alone = {"site-00": late}
    stripped = late.copy()
    for other in ("site-01", "site-02"):
        mask_key = run.members["site-00"].mask_key
        stripped -= _pair_mask(mask_key, run.keys[other].masks, run.session)
    assert not (stripped == vectors["site-00"]).any()
    with pytest.raises(FederationError, match="Only 1 of 3 sites"):
        unmask(run.session, run.keys, run.shared, alone, {})


def test_a_site_says_the_same_again_after_a_crash_and_nothing_of_it_in_another_session():
    first, again, later = Run(3), Run(3), Run(3, name="run/2")
    vectors = first.random_vectors(1)
    for run in (first, again, later):
        run.masked(vectors)
    assert first.keys == again.keys and first.letters == again.letters
    assert all((first.views[site] == again.views[site]).all() for site in first.views)
    assert all(not (first.views[site] == later.views[site]).any() for site in first.views)
    assert first.keys["site-00"] != later.keys["site-00"]


def test_changed_letters_and_keys_are_noticed():
    run = Run(3)
    run.masked(run.random_vectors(1))
    letters = {sender: sent["site-00"] for sender, sent in run.letters.items()}
    letters["site-01"] = letters["site-01"][:-1] + bytes([letters["site-01"][-1] ^ 1])
    with pytest.raises(FederationError, match="shares of site 'site-01' for site 'site-00' were"):
        reveal(run.members["site-00"], run.keys, letters, set(run.views))
    swapped = run.keys | {"site-00": run.keys["site-01"]}
    with pytest.raises(FederationError, match="told other keys of its own than it sent"):
        share(run.members["site-00"], swapped)


def test_a_vector_of_another_form_is_refused():
    run = Run(3)
    run.masked(run.random_vectors(1))
    run.views["site-01"] = run.views["site-01"][:-1]
    with pytest.raises(FederationError, match=r"sent uint32\[15\] in a secure sum of uint32\[16\]"):
        run.total()
