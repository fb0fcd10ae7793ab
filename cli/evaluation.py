"""Evaluating and comparing stored models on the test split of their data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cli.application import Progress
from cli.environment import Environment
from cli.errors import CommandError
from cli.learning import (
    environment_store,
    lineage_of,
    load_data,
    load_stored,
    short_digest,
)

if TYPE_CHECKING:
    from recsys.artifact import LoadedModel
    from recsys.data.interactions import Interactions
    from recsys.data.split import TimeSplit
    from recsys.evaluate import Rankings
    from recsys.report import Comparison, Report


@dataclass(frozen=True)
class Evaluated:
    """Report on one model; `as_trained` is False where the data differ from the model's own."""

    model: str
    data: str
    as_trained: bool
    report: Report


@dataclass(frozen=True)
class Compared:
    """Comparison of two models; `as_trained` as in `Evaluated`."""

    first: str
    second: str
    data: str
    as_trained: bool
    comparison: Comparison


def evaluate(
    environment: Environment, reference: str, data: str | None, k: int, progress: Progress
) -> Evaluated:
    """Report on a stored model.

    Parameters
    ----------
    data
        `synthetic`, a path, or a folder with a time split; None for the data that the model was
        trained on.

    Raises
    ------
    RecsysError
        The data hold items that the model was not made for, or nobody to evaluate.
    """
    from recsys.data.split import is_time_split, load_time_split
    from recsys.report import report

    store = environment_store(environment)
    digest = store.resolve(reference)
    source = lineage_of(store, digest, "data")
    address = data or source["address"]
    model = load_stored(store, digest)
    if is_time_split(Path(address)):
        cut = load_time_split(Path(address))
        fingerprint = cut.train.fingerprint()
        rankings = _rank_after(model, cut, k, progress)
    else:
        interactions = load_data(environment, address)
        fingerprint = interactions.fingerprint()
        rankings = _rank(model, interactions, k, progress)
    return Evaluated(digest, address, fingerprint == source["fingerprint"], report(rankings))


def compare(
    environment: Environment, first: str, second: str, k: int, progress: Progress
) -> Compared:
    """Compare two stored models on the data that both were trained on.

    Raises
    ------
    NotComparable
        The models have different vocabularies or data.
    """
    from recsys.report import compare as compare_rankings

    store = environment_store(environment)
    digests = [store.resolve(reference) for reference in (first, second)]
    models = [load_stored(store, digest) for digest in digests]
    if models[0].items != models[1].items:
        raise _unlike(digests, "item vocabularies")
    sources = [lineage_of(store, digest, "data") for digest in digests]
    if sources[0]["fingerprint"] != sources[1]["fingerprint"]:
        raise _unlike(digests, f"data ({sources[0]['address']} and {sources[1]['address']})")
    interactions = load_data(environment, sources[0]["address"])
    rankings = [_rank(model, interactions, k, progress) for model in models]
    return Compared(
        *digests,
        sources[0]["address"],
        interactions.fingerprint() == sources[0]["fingerprint"],
        compare_rankings(*rankings),
    )


def _rank(loaded: LoadedModel, interactions: Interactions, k: int, progress: Progress) -> Rankings:
    from recsys.data.split import leave_one_out
    from recsys.data.vocabulary import with_vocabulary
    from recsys.evaluate import rank

    known = with_vocabulary(interactions, loaded.items)
    return rank(loaded.model, known, leave_one_out(known), part="test", k=k, progress=progress)


def _rank_after(loaded: LoadedModel, cut: TimeSplit, k: int, progress: Progress) -> Rankings:
    """Of each user's first event in the test part, after all of theirs before it."""
    from recsys.data.split import PARTS, first_after
    from recsys.data.vocabulary import with_vocabulary
    from recsys.evaluate import rank

    known = {part: with_vocabulary(getattr(cut, part), loaded.items) for part in PARTS}
    cut = replace(cut, **known)
    interactions, split = first_after(cut.whole(), cut, "test")
    if not (split.test_target >= 0).any():
        raise CommandError("No user has events both before the test part and in it.")
    return rank(loaded.model, interactions, split, part="test", k=k, progress=progress)


class NotComparable(CommandError):
    """Two models of which nothing can be paired: exit code 2."""


def _unlike(digests: list[str], what: str) -> NotComparable:
    first, second = map(short_digest, digests)
    return NotComparable(
        f"Models {first} and {second} were made for different {what}: only models of the same "
        "data can be compared user by user.",
        exit_code=2,
    )
