"""Why a stored model recommends an item to a user, with names and texts instead of indices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cli.environment import Environment
from cli.learning import environment_store, lineage_of, load_data, load_stored


@dataclass(frozen=True)
class ExplainedItem:
    """An explained recommendation; `recsys.explain.Explanation` says what the figures mean.

    Parameters
    ----------
    events
        A row an event the model sees, oldest first: place, item, text, score_drop, rank_without,
        integrated_gradient and removed, which tells whether it is in the counterfactual set.
    counterfactual
        removed (items), score, rank, successor and smallest; None where no set was found.
    """

    user: str
    item: str
    text: str
    k: int
    model: str
    score: float
    rank: int
    events: list[dict[str, Any]]
    counterfactual: dict[str, Any] | None
    completeness_gap: float


def explain_item(
    environment: Environment, reference: str, user: str, item: str, k: int
) -> ExplainedItem:
    """Explain why `item` is among a user's first `k`, by the data that the model was trained on.

    Raises
    ------
    RecsysError
        There is no such user or item, or the model does not recommend the item to the user.
    StoreError
        There is no such model.
    """
    from recsys.errors import RecsysError
    from recsys.explain import explain

    store = environment_store(environment)
    digest = store.resolve(reference)
    interactions = load_data(environment, lineage_of(store, digest, "data")["address"])
    loaded = load_stored(store, digest)
    index = {name: number for number, name in enumerate(loaded.items)}
    if item not in index:
        raise RecsysError(
            f"unknown item {item!r}: the model knows {len(index)} items, "
            f"for example {loaded.items[0]!r}"
        )
    # Items that are newer than the model are passed over, as in serving.
    history = [index[name] for name in interactions.history(user) if name in index]
    try:
        found = explain(loaded.model.folded(), history, index[item], k)
    except RecsysError as error:
        raise RecsysError(f"user {user!r}, item {item!r}: {error}") from error

    texts = dict(zip(interactions.items, interactions.item_text or []))
    change = found.counterfactual
    removed = change.places if change else ()
    events = [
        {
            "place": effect.place,
            "item": loaded.items[effect.item],
            "text": texts.get(loaded.items[effect.item], ""),
            "score_drop": effect.score_drop,
            "rank_without": effect.rank,
            "integrated_gradient": effect.attribution,
            "removed": effect.place in removed,
        }
        for effect in found.effects
    ]
    return ExplainedItem(
        user=user,
        item=item,
        text=texts.get(item, ""),
        k=k,
        model=digest,
        score=found.score,
        rank=found.rank,
        events=events,
        counterfactual=change and {
            "removed": [event["item"] for event in events if event["removed"]],
            "score": change.score,
            "rank": change.rank,
            "successor": loaded.items[change.successor],
            "smallest": change.smallest,
        },
        completeness_gap=found.completeness_gap,
    )
