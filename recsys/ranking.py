"""A model as it is served, whatever runs it: an encoder of histories and an index of items."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from recsys.exact import Found, Index, best_of

History = Sequence[int] | np.ndarray


class Ranker:
    """Encodes histories and finds items.

    Parameters
    ----------
    encode
        Gives float[B, d] of B histories.
    index
        The items to find.
    seen_bias
        Added to the scores of items that a history holds.
    length
        How many of the latest events `encode` looks at.
    one_step
        Given a history, k and whether seen items count, does for it what `encode` and `rank` do
        where no item is barred, and quicker; None where nothing can.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[History]], np.ndarray],
        index: Index,
        seen_bias: float,
        length: int,
        one_step: Callable[[History, int, bool], Found] | None = None,
    ) -> None:
        self.encode = encode
        self.index = index
        self.seen_bias = seen_bias
        self.length = length
        self.one_step = one_step

    def searched_by(self, index: Index) -> Ranker:
        """The same with another index of the same items, which then is asked for every request."""
        return Ranker(self.encode, index, self.seen_bias, self.length)

    def recommend(self, histories: Sequence[History], k: int) -> Found:
        """Scores float[B, k] and items int64[B, k], the best first; seen items are not left out."""
        return self.rank(self.encode(histories), histories, k)

    def rank(
        self,
        states: np.ndarray,
        histories: Sequence[History],
        k: int,
        *,
        allowed: np.ndarray | None = None,
        seen: bool = True,
    ) -> Found:
        """The same of states float[B, d] and the B histories that they are of.

        Parameters
        ----------
        allowed
            bool[items] that may be found; places that they do not fill have the score -inf.
        seen
            Whether items of the history may be found again.
        """
        # Sets, since a request's few items are looked up in one before NumPy has begun.
        past = [set(np.asarray(history, dtype=np.int64).tolist()) for history in histories]
        # Seen items are ranked apart, since the index knows nothing of what is added to them.
        values, found = self.index.search(states, k + max(map(len, past)), allowed)
        again = [[item in own for item in row] for row, own in zip(found.tolist(), past)]
        values = np.where(again, -np.inf, values)
        if seen:
            had, counts = padded([np.array(sorted(own), dtype=np.int64) for own in past])
            filled = np.arange(had.shape[1]) < counts[:, None]
            of_seen = np.matmul(self.index.rows(had), states[:, :, None])[:, :, 0]
            kept = filled if allowed is None else filled & allowed[had]
            of_seen = np.where(kept, of_seen + np.float32(self.seen_bias), -np.inf)
            values = np.concatenate([values, of_seen], 1)
            found = np.concatenate([found, had], 1)
        values, best = best_of(values, k)
        return values, found[np.arange(len(found))[:, None], best]


def padded(histories: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """int64[B, longest] item indices, 0 where a history has ended, and int64[B] lengths."""
    lengths = np.array([len(history) for history in histories], dtype=np.int64)
    places = np.zeros((len(histories), lengths.max()), dtype=np.int64)
    places[np.arange(places.shape[1]) < lengths[:, None]] = np.concatenate(histories)
    return places, lengths
