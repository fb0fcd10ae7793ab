"""The best items of one history by one call of ONNX Runtime: encoder, product and choice in a graph.

What a lone request needs is so little that the way from step to step, through NumPy and a cache
that others have filled meanwhile, takes as long as the steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recsys.accelerate.export import check_encoder, lone_graph
from recsys.accelerate.session import session_of
from recsys.exact import Found
from recsys.model import SequentialRecommender


class OneStep:
    """Finds what `recsys.ranking.Ranker` finds for one history where no item is barred.

    Parameters
    ----------
    model
        Without towers (`SequentialRecommender.folded`).
    table
        float32[items, d] finite vectors of its items.

    Raises
    ------
    RecsysError
        ONNX Runtime's states are not torch's.
    """

    def __init__(self, model: SequentialRecommender, table: np.ndarray) -> None:
        self._length, self._items = model.length, len(table)
        self._added = {
            True: np.array([[model.seen_bias.item()]], dtype=np.float32),
            False: np.array([[-np.inf]], dtype=np.float32),
        }
        self._session = session_of(lone_graph(model, table))
        check_encoder(model, self._states)

    def __call__(self, history: Sequence[int] | np.ndarray, k: int, seen: bool) -> Found:
        """Scores float[k] and items int64[k] of at least one event, the best first.

        There are fewer than k where the model has fewer items; those of the history have the score
        -inf where seen items shall not be found.
        """
        values, found = self._session.run(["values", "found"], self._asked(history, k, seen))
        return values[0], found[0]

    def _states(self, histories: Sequence[Sequence[int]]) -> np.ndarray:
        """float[B, d] after the last event of each history."""
        runs = [self._session.run(["states"], self._asked(each, 1, True)) for each in histories]
        return np.concatenate([states for (states,) in runs])

    def _asked(
        self, history: Sequence[int] | np.ndarray, k: int, seen: bool
    ) -> dict[str, np.ndarray]:
        events = np.array(history, dtype=np.int64)
        return {
            "items": events[-self._length :],
            "had": np.array([list(set(events.tolist()))]),
            "added": self._added[seen],
            "k": np.array([min(k, self._items)]),
        }
