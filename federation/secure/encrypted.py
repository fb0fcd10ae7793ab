"""The server's part in encrypted sums, and a round of them."""

from __future__ import annotations

import json
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from flwr.app import ConfigRecord, RecordDict

from federation.asking import REPLY_ROOM, Answer, Run, ask
from federation.checkpoint import Checkpoint
from federation.errors import FederationError
from federation.exchange import Exchange, exchange
from federation.protocol import Reply, Task, write_model
from federation.secure import homomorphic
from federation.secure.encrypted_site import LETTER, SCHEME, text_of
from federation.secure.letters import agree
from federation.secure.messages import answer_of, examples_of
from federation.secure.messages import read as read_message
from federation.secure.rounds import sum_of
from federation.secure.vectors import BOUND, Layout, layout
from federation.updates import Update

# A key and its letter, about twice as large as they are.
LETTER_ROOM = 1 << 19

log = logging.getLogger("flwr")
Told = TypeVar("Told")


class EncryptedRounds:
    """Rounds in which the server adds up what it cannot read.

    The sites agree on a key in the first round, and again with those that were away then.

    Parameters
    ----------
    run : Run
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._name = ""
        self._public = b""
        self._examples: dict[str, int] = {}
        self._bytes = [0, 0]
        self._refused: dict[str, str] = {}

    def train(
        self, state: Checkpoint, task: Task, chosen: list[str]
    ) -> tuple[Exchange[Answer], list[Update]]:
        """Let the chosen sites train; gives all sites' answers and one update, the sum's."""
        self._bytes, self._refused = [0, 0], {}
        self._agree(task, chosen)
        settings = self._run.settings
        members = [site for site in chosen if site in self._examples]
        least = max(2, len(chosen) // 2 + 1)
        _require(members, least, "hold the key of the encrypted sum")
        count = sum(self._examples[site] for site in members)
        weights = {site: self._examples[site] / count for site in members}
        plan = {"scheme": SCHEME, "name": self._name, "weights": weights,
                "rows": settings.secure_rows}  # fmt: skip
        planned = replace(task, secure=json.dumps(plan, sort_keys=True))
        result = ask(self._run, state, planned, members)
        sent = layout(
            state.weights, share=settings.secure_rows, seed=settings.seed, number=task.number,
            bound=BOUND, bits=homomorphic.BITS,
        )  # fmt: skip
        total = homomorphic.Total(self._public, sent.size)
        replies = {}
        for site in (site for site in members if site in result.answers):
            reply = result.answers[site].reply
            try:
                total.add(homomorphic.parted(reply.blobs["encrypted"]))
            except FederationError as error:
                result.refused[site] = f"Site {site!r} sent no usable part of the sum: {error}"
                log.warning("round %d goes on without site %r: %s", task.number, site, error)
                continue
            replies[site] = reply
        _require(list(replies), least, "sent their part")
        plain = self._decrypted(task, homomorphic.joined(total.serialize()), sent, list(replies))
        delta = sent.decode(plain, sum(weights[site] for site in replies))
        result.refused |= {site: why for site, why in self._refused.items() if site not in replies}
        return sum_of(state, result, replies, delta, *self._bytes)

    def _agree(self, task: Task, chosen: list[str]) -> None:
        """Have a key at all chosen sites, or at those that answer."""
        if not (lacking := [site for site in chosen if site not in self._examples]):
            return
        told = self._tell(task, {site: (text_of("key"), {}) for site in lacking}, _key)
        keys, examples, holders = (
            {site: answer[place] for site, answer in told.items()} for place in range(3)
        )
        if not self._name:
            # A run that is taken up again goes on with the key that most have.
            counted = Counter(name for names in holders.values() for name in sorted(names))
            self._name = counted.most_common(1)[0][0] if counted else ""
        having = [site for site, names in holders.items() if self._name in names]
        dealer = min([*self._examples, *having] or keys)
        without = {site: key for site, key in keys.items() if site not in {*having, dealer}}
        question = text_of("deal", name=self._name, to=without)
        room = LETTER_ROOM * (len(without) + 1)
        dealt = partial(_dealt, sorted(without))
        self._name, parts = self._tell(task, {dealer: (question, {})}, dealt, room)[dealer]
        self._public = parts["public"]
        if dealer not in keys:
            # It is known by its key of an earlier exchange.
            keys[dealer] = self._tell(task, {dealer: (text_of("key"), {})}, _key)[dealer][0]
        question = text_of("open", sender=dealer, key=keys[dealer])
        letters = {
            site: (question, {"letter": parts[f"{LETTER}{site}"]}) for site in sorted(without)
        }
        opened = self._tell(task, letters, _name) if letters else {}
        having += [dealer, *(site for site, name in opened.items() if name == self._name)]
        self._examples |= {site: examples[site] for site in having if site in examples}

    def _decrypted(
        self, task: Task, total: bytes, sent: Layout, sites: list[str]
    ) -> np.ndarray:
        """The sum, read by the first of the sites that does."""
        question = (text_of("decrypt", name=self._name), {"sum": total})
        for site in sites:
            try:
                room = REPLY_ROOM + 4 * sent.size
                plain = self._tell(task, {site: question}, partial(_plain, sent.size), room)[site]
            except FederationError as error:
                log.warning("site %r does not decrypt the sum: %s", site, error)
                why = error
            else:
                return plain.view(np.uint32)
        raise FederationError(f"No site decrypts the sum of round {task.number}: {why}")

    def _tell(
        self,
        task: Task,
        questions: Mapping[str, tuple[str, dict[str, bytes]]],
        usable: Callable[[dict[str, Any], dict[str, bytes]], Told],
        room: int = REPLY_ROOM,
    ) -> dict[str, Told]:
        """Ask sites; gives what was read of those whose answer can be used.

        Parameters
        ----------
        usable
            Reads what a site tells, and what goes with it; raises an error of its form.
        """
        head = {"run": task.run, "number": task.number}
        contents = {
            site: RecordDict(
                {"secure": ConfigRecord(head | {"text": text})}
                | ({"with": write_model(parts)} if parts else {})
            )
            for site, (text, parts) in questions.items()
        }

        def told(site: str, content: RecordDict) -> Told:
            reply = Reply.from_content(content, site=site, task=task, limit=room)
            text = reply.blobs.pop("secure", b"").decode(errors="replace")
            with answer_of(site):
                return usable(read_message(text), reply.blobs)

        run = self._run
        result = exchange(run.grid, run.settings, task, lambda site: {}, [], told, contents)
        self._bytes[0] += result.bytes_down
        self._bytes[1] += result.bytes_up
        self._refused |= result.refused
        return result.answers


def _key(told: dict[str, Any], _: dict[str, bytes]) -> tuple[str, int, set[str]]:
    """A site's public key, its number of examples, and the names of the keys that it holds."""
    key = str(told["key"])
    agree(secrets.token_bytes(32), bytes.fromhex(key))
    return key, max(examples_of(told), 1), set(map(str, told["holds"]))


def _dealt(
    to: list[str], told: dict[str, Any], parts: dict[str, bytes]
) -> tuple[str, dict[str, bytes]]:
    """Name of a key, and its public half with the letters to other sites."""
    return str(told["name"]), {part: parts[part] for part in ["public", *(LETTER + s for s in to)]}


def _name(told: dict[str, Any], _: dict[str, bytes]) -> str:
    return str(told["name"])


def _plain(size: int, _: dict[str, Any], parts: dict[str, bytes]) -> np.ndarray:
    plain = np.frombuffer(parts["plain"], "<i4")
    if plain.shape != (size,):
        raise ValueError(f"a sum of {len(plain)} numbers, not {size}.")
    return plain


def _require(sites: list[str], least: int, what: str) -> None:
    if len(sites) < least:
        raise FederationError(
            f"Only {len(sites)} sites {what}; the sum needs {least}, so it was given up and no "
            "site's vector is known."
        )
