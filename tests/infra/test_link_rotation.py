"""Rotation of a link's keys: whatever fails in whatever order, the last tunnel up is left alone."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from infra.link_rotation import TUNNELS, Link, NotReady, Rotation, again, step

CALLS = 5  # a step makes no more calls than this


class Lost(Exception):
    """A call that failed, or whose answer never came."""


class Wire:
    """Two tunnels between two ends; one is up while both ends have the same keys."""

    def __init__(self) -> None:
        self.keys = {(end, tunnel): 0 for end in ("cloud", "site") for tunnel in TUNNELS}
        self.preferred = {"cloud": 0, "site": 0}
        self.outages: set[int] = set()
        self.fault: tuple[int, bool] | None = None

    def is_up(self, tunnel: int) -> bool:
        same = self.keys["cloud", tunnel] == self.keys["site", tunnel]
        return same and tunnel not in self.outages

    def link(self) -> Link:
        return Link(ModelEnd(self, "cloud"), ModelEnd(self, "site"), self.is_up)


class ModelEnd:
    """An end whose next call but so many fails, before it had its effect or after."""

    def __init__(self, wire: Wire, name: str) -> None:
        self.wire, self.name = wire, name

    def _falters(self, after: bool) -> None:
        fault = self.wire.fault
        if fault and fault[1] is after:
            self.wire.fault = (fault[0] - 1, after) if fault[0] else None
            if not fault[0]:
                raise Lost

    def prepare(self, tunnel: int, generation: int) -> str:
        self._falters(False)
        self._falters(True)
        return f"{self.name}-{tunnel}-{generation}"

    def apply(self, tunnel: int, generation: int, offer: str) -> None:
        self._falters(False)
        wire, other = self.wire, 1 - tunnel
        peer = "site" if self.name == "cloud" else "cloud"
        assert offer == f"{peer}-{tunnel}-{generation}"
        if wire.is_up(tunnel) and wire.keys[self.name, tunnel] != generation:
            assert wire.is_up(other), "the only tunnel that was up is cut"
            assert wire.preferred == {"cloud": other, "site": other}, "traffic is cut"
        wire.keys[self.name, tunnel] = generation
        self._falters(True)

    def prefer(self, tunnel: int) -> None:
        self._falters(False)
        assert self.wire.is_up(tunnel), "traffic is sent into a tunnel that is down"
        self.wire.preferred[self.name] = tunnel
        self._falters(True)


class RotationUnderFaults(RuleBasedStateMachine):
    """Steps, lost calls, lost answers, crashes, outages and repetitions, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.wire = Wire()
        self.rotation = Rotation(generation=1)
        self.saved = self.rotation.to_json()
        self.steady = True

    def _step(self) -> None:
        try:
            self.rotation = step(self.rotation, self.wire.link())
        except (Lost, NotReady):
            return
        finally:
            self.wire.fault = None

    @precondition(lambda self: not self.rotation.done)
    @rule()
    def go_on(self) -> None:
        self._step()
        self.saved = self.rotation.to_json()

    @precondition(lambda self: not self.rotation.done)
    @rule(calls=st.integers(0, CALLS), after=st.booleans())
    def go_on_with_a_lost_call(self, calls: int, after: bool) -> None:
        self.wire.fault = (calls, after)
        self.go_on()

    @precondition(lambda self: not self.rotation.done)
    @rule()
    def crash_before_the_step_is_saved(self) -> None:
        self._step()
        self.rotation = Rotation.from_json(self.saved)

    @precondition(lambda self: not self.rotation.done)
    @rule()
    def give_the_keys_again(self) -> None:
        self.rotation = again(self.rotation)

    @rule(tunnel=st.sampled_from(TUNNELS))
    def lose_a_tunnel(self, tunnel: int) -> None:
        self.wire.outages.add(tunnel)
        self.steady = False

    @rule(tunnel=st.sampled_from(TUNNELS))
    def get_a_tunnel_back(self, tunnel: int) -> None:
        self.wire.outages.discard(tunnel)

    @precondition(lambda self: self.rotation.done)
    @rule()
    def rotate_once_more(self) -> None:
        self.rotation = Rotation(self.rotation.generation + 1)

    @invariant()
    def one_tunnel_is_up_unless_an_outage_took_it(self) -> None:
        if self.steady:
            assert any(map(self.wire.is_up, TUNNELS))
            assert all(self.wire.is_up(tunnel) for tunnel in self.wire.preferred.values())

    def teardown(self) -> None:
        """Once faults end, a few steps bring new keys to both tunnels at both ends."""
        self.wire.outages.clear()
        for _ in range(8):
            if not self.rotation.done:
                self._step()
        assert self.rotation.done
        assert set(self.wire.keys.values()) == {self.rotation.generation}


RotationUnderFaults.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None
)
test_rotation_under_faults = RotationUnderFaults.TestCase


def test_a_tunnel_keeps_its_keys_while_the_other_is_down():
    wire = Wire()
    wire.outages = {1}
    rotation = step(Rotation(1), wire.link())
    with pytest.raises(NotReady, match="tunnel 2 is down, so tunnel 1 keeps its keys"):
        step(rotation, wire.link())
    assert set(wire.keys.values()) == {0}


def test_a_link_that_never_was_up_is_made_by_its_first_rotation():
    wire = Wire()
    wire.keys = {key: number for number, key in enumerate(wire.keys)}
    rotation = Rotation(9)
    for _ in range(8):
        rotation = step(rotation, wire.link())
    assert rotation.done and all(map(wire.is_up, TUNNELS))


def test_a_file_that_holds_no_rotation_is_refused():
    with pytest.raises(ValueError, match="it holds no rotation of a link"):
        Rotation.from_json('{"colour": 1}')
