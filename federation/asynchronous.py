"""Rounds that do not wait for the slowest site: buffered aggregation (FedBuff).

A site that is idle is handed the newest model, once each version. As soon as the buffer holds the
updates of K answers, they make the next version; an answer that comes later counts in a later one,
by how stale it is. A round is one version of the model.

What comes first differs from run to run. So every update that arrives is written down before it
counts (:mod:`federation.arrivals`), and each round's record tells whose updates of which versions
made it, in their order, and which sites were still at work on which version. A ServerApp that was
killed goes on with the updates that had arrived, and asks the sites at work for the same again.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import replace
from functools import partial

from flwr.app import MessageType, RecordDict

from federation.arrivals import Arrival, Arrivals
from federation.asking import Answer, Run, held, read_answer
from federation.checkpoint import CHECKPOINT, Checkpoint
from federation.downlink import Behind, Outgoing
from federation.errors import FederationError
from federation.exchange import MOST_DEADLINES
from federation.post import Post, pause, silence
from federation.protocol import Task
from federation.rounds import close, pay, rate, trained
from federation.updates import Weights
from recsys.artifact import load_model

log = logging.getLogger("flwr")


class BufferedRounds:
    """The sites at work, and what has arrived of them since the last version was made.

    Parameters
    ----------
    run : Run
    state : Checkpoint
        Where the run goes on.
    """

    def __init__(self, run: Run, state: Checkpoint) -> None:
        self._run, self._state = run, state
        self._post = Post(run.grid, run.settings)
        counted = [pair for record in state.records for pair in record.get("arrived", ())]
        self._arrivals = Arrivals(run.folder / "arrivals", counted=len(counted))
        self._buffer = self._arrivals.load()
        answered = [*counted, *((arrival.site, arrival.version) for arrival in self._buffer)]
        self._answered: dict[str, int] = dict(answered)
        self._held = held(state.records) | self._answered
        self._working: dict[str, int] = {}
        self._handed: dict[str, float] = {}
        self._spent = pay(run, state.number + 1, [])
        self._sent = (0, 0)
        self._renew()
        for site, version in state.records[-1].get("working", {}).items():
            if self._answered.get(site, -1) < version:
                self._hand(site, version)

    def round(self, state: Checkpoint) -> Checkpoint:
        """Collect updates until the buffer is full, and make the next version: the state then."""
        self._state, number = state, state.number + 1
        began = time.monotonic()
        refused = self._fill(number)
        size = self._run.settings.buffer
        counted, self._buffer = self._buffer[:size], self._buffer[size:]
        updates = [
            replace(arrival.update, staleness=state.number - arrival.version)
            for arrival in counted
        ]
        before, self._sent = self._sent, (self._post.bytes_down, self._post.bytes_up)
        record = {
            "bytes_down": self._sent[0] - before[0],
            "bytes_up": self._sent[1] - before[1],
            "seconds": round(time.monotonic() - began, 3),
            "trained": {a.site: trained(a.update, a.answered, a.moved) for a in counted},
            "refused": dict(sorted(refused.items())),
            "asked": sorted({*self._working, *refused, *(arrival.site for arrival in counted)}),
            "arrived": [[arrival.site, arrival.version] for arrival in counted],
            "working": dict(sorted(self._working.items())),
        }
        # Of a site that is in the buffer twice the newer figures count.
        newest = sorted(counted, key=lambda arrival: arrival.version)
        measured = {arrival.site: arrival.figures for arrival in newest}
        self._state = close(self._run, state, updates, measured, record | self._spent)
        self._arrivals.forget(len(counted))
        self._renew()
        return self._state

    def _fill(self, number: int) -> dict[str, str]:
        """Ask and collect until the buffer is full; gives why some answers do not count."""
        size, patience = self._run.settings.buffer, self._run.settings.round_timeout
        refused: dict[str, str] = {}
        began = time.monotonic()
        deadlines = 1
        while len(self._buffer) < size:
            for site in self._run.settings.sites:
                if site not in self._working and self._answered.get(site, -1) < self._state.number:
                    self._hand(site, self._state.number)
            if not self._working:
                raise self._too_few(number, refused)
            self._post.send()
            for site, answer in self._post.collect(self._read):
                self._take(site, answer, number, refused)
            if time.monotonic() > began + deadlines * patience and len(self._buffer) < size:
                if deadlines == MOST_DEADLINES:
                    late = {site: silence(site, deadlines * patience) for site in self._working}
                    raise self._too_few(number, refused | late)
                missing = ", ".join(f"site {site!r}" for site in self._working)
                log.warning("round %d waits to fill its buffer: %s", number, missing)
                deadlines += 1
                self._post.repeat()
            if len(self._buffer) < size:
                pause(began)
        return refused

    def _take(
        self, site: str, answer: Answer | FederationError, number: int, refused: dict[str, str]
    ) -> None:
        version = self._working.pop(site)
        self._answered[site] = version
        if isinstance(answer, FederationError):
            log.warning("round %d goes on without site %r: %s", number, site, answer)
            refused[site] = str(answer)
            return
        self._held[site] = version
        arrival = Arrival(
            version=version,
            update=answer.update,
            figures=answer.reply.figures["validation"],
            answered=round(time.monotonic() - self._handed[site], 3),
            moved=self._post.moved.pop(site),
        )
        self._arrivals.keep(arrival)
        self._buffer.append(arrival)
        log.info("site %r sent an update of version %d in round %d", site, version, number)

    def _hand(self, site: str, version: int) -> None:
        """Let a site train a version: the newest, or before a crash the newest of then."""
        self._spent = pay(self._run, version + 1, [site])
        self._working[site] = version
        self._handed[site] = time.monotonic()
        content = partial(self._question, site, version)
        self._post.put(site, MessageType.TRAIN, version + 1, content)

    def _question(self, site: str, version: int) -> RecordDict:
        task = replace(self._task(version), train=True).to_record()
        outgoing = self._outgoing
        if version != self._state.number:
            # A site that was lost, or silent, since before newer versions: there are few of these.
            outgoing = Outgoing(self._weights(version), version, None, {})
        return RecordDict({"model": outgoing.message(site), "task": task})

    def _read(self, site: str, content: RecordDict) -> Answer:
        if "behind" in content and self._held.pop(site, None) is not None:
            raise Behind(f"Site {site!r} does not hold the model of an earlier round.")
        task = self._task(self._working[site])
        return read_answer(
            self._run, self._state.weights, task, site, content, last=False, trained=True
        )

    def _task(self, version: int) -> Task:
        number = version + 1
        return replace(
            self._run.task, number=number, version=version, rate=rate(self._run.settings, number)
        )

    def _renew(self) -> None:
        """Get ready to hand out the newest version, and keep those that sites are at work on."""
        number, run = self._state.number, self._run
        self._outgoing = Outgoing(self._state.weights, number, run.messages, self._held)
        folder = run.folder / "versions"
        folder.mkdir(exist_ok=True)
        # The checkpoint is replaced, never written to: a link keeps this one as it is.
        if number and not (folder / f"{number}.safetensors").exists():
            os.link(run.folder / CHECKPOINT, folder / f"{number}.safetensors")
        wanted = {number, *self._state.records[-1].get("working", {}).values()}
        for path in folder.glob("*.safetensors"):
            if int(path.stem) not in wanted:
                path.unlink()

    def _weights(self, version: int) -> Weights:
        if not version:
            model = load_model(self._run.folder / "initial").model
            return {name: tensor.numpy() for name, tensor in model.state_dict().items()}
        return Checkpoint.load(self._run.folder / "versions", f"{version}.safetensors").weights

    def _too_few(self, number: int, why: dict[str, str]) -> FederationError:
        return FederationError(
            f"Round {number} has {len(self._buffer)} of the {self._run.settings.buffer} usable "
            f"answers that it needs. {' '.join(why[site] for site in sorted(why))}"
        )
