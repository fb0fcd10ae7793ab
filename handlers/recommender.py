"""A loaded model that answers a batch of requests; knows nothing of the server around it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from handlers.requests import MOST_ITEMS, RecommendRequest
from recsys.accelerate.runtime import open_runtime

COLD_SAMPLE = 1024


class Recommender:
    """Answers histories by a stored model, accelerated or not.

    Parameters
    ----------
    folder
        A model artefact.

    Raises
    ------
    RecsysError
        The artefact is not usable.
    """

    def __init__(self, folder: Path) -> None:
        self.runtime, items = open_runtime(folder)
        self.items = np.array(items, dtype=object)
        self.places = {item: place for place, item in enumerate(items)}
        self.cold = self._cold()

    def recommend(self, requests: list[RecommendRequest]) -> list[list[tuple[str, float]]]:
        """Answer each request with (item id, score), the best first.

        A user without a known item gets the items that are likely for anybody. There are fewer
        than `k` items only where the vocabulary has no more, or, in a vocabulary that is searched
        approximately, where the search found no more.

        Raises
        ------
        FloatingPointError
            The model gives scores that are no numbers.
        """
        histories = [
            [self.places[item] for item in request.history if item in self.places]
            for request in requests
        ]
        warm = [row for row, history in enumerate(histories) if history]
        # Enough that a request is answered in full when every item of its history is left out.
        most = max((requests[row].k + len(set(histories[row])) for row in warm), default=0)
        found = dict(zip(warm, self._found([histories[row] for row in warm], most), strict=True))
        answers = []
        for row, (request, history) in enumerate(zip(requests, histories, strict=True)):
            values, places = found.get(row, self.cold)
            # -inf is a place that a search left empty; what the model itself gives is a number.
            if np.isnan(values).any() or np.isposinf(values).any():
                raise FloatingPointError("the model's scores are not finite")
            left_out = history if request.exclude_seen else []
            kept = np.flatnonzero(np.isfinite(values) & ~np.isin(places, left_out))[: request.k]
            answers.append(
                list(zip(self.items[places[kept]], values[kept].tolist(), strict=True))
            )
        return answers

    def _found(
        self, histories: list[list[int]], most: int
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Scores float[found] and items int64[found] of each history; it runs once over all."""
        if not histories:
            return []
        values, places = self.runtime.recommend(histories, most)
        return list(zip(values.numpy(), places.numpy(), strict=True))

    @torch.inference_mode()
    def _cold(self) -> tuple[np.ndarray, np.ndarray]:
        """The items that are likely for anybody: float[some] scores and int64[some] items.

        A score is the log of an item's chance after one event, averaged over events. An artefact
        holds no counts; averaged over what a first event may be, the model's own predictions favour
        what is popular. A vocabulary above `COLD_SAMPLE` is sampled evenly.
        """
        size = len(self.items)
        firsts = np.unique(np.linspace(0, size - 1, min(size, COLD_SAMPLE)).astype(np.int64))
        chance = torch.zeros(size)
        for part in np.array_split(firsts, -(-len(firsts) // 64)):
            states = self.runtime.encode([[first] for first in part.tolist()])
            chance += self.runtime.scores(states).softmax(dim=1).sum(dim=0)
        best = (chance / len(firsts)).log().topk(min(size, MOST_ITEMS))
        return best.values.numpy(), best.indices.numpy()
