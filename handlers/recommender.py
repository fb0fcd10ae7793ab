"""A loaded model that answers a batch of requests; knows nothing of the server around it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from handlers.requests import RecommendRequest
from recsys.artifact import load_model

COLD_SAMPLE = 1024


class Recommender:
    """Scores histories with a `SequentialRecommender`.

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
        loaded = load_model(folder)
        self.model = loaded.model.folded()
        self.items = np.array(loaded.items, dtype=object)
        self.index = {item: place for place, item in enumerate(loaded.items)}
        self.cold = self._cold_scores()

    @torch.inference_mode()
    def recommend(self, requests: list[RecommendRequest]) -> list[list[tuple[str, float]]]:
        """Answer each request with (item id, score), the best first.

        A user without a known item gets the items that are likely for anybody. There are fewer
        than `k` items only where the vocabulary has no more.

        Raises
        ------
        FloatingPointError
            The model gives scores that are no numbers.
        """
        histories = [
            [self.index[item] for item in request.history if item in self.index]
            for request in requests
        ]
        scores = self._scores(histories)
        rows = [row for row, r in enumerate(requests) if r.exclude_seen for _ in histories[row]]
        columns = [i for row, r in enumerate(requests) if r.exclude_seen for i in histories[row]]
        scores[rows, columns] = -torch.inf
        most = min(max(request.k for request in requests), scores.shape[1])
        top = scores.topk(most)
        values, places = top.values.numpy(), top.indices.numpy()
        # -inf is an item left out; what the model itself gives must be a number.
        if np.isnan(values).any() or np.isposinf(values).any():
            raise FloatingPointError("the model's scores are not finite")
        answers = []
        for request, row, chosen in zip(requests, values, places, strict=True):
            count = min(request.k, int(np.isfinite(row).sum()))
            answers.append(list(zip(self.items[chosen[:count]], row[:count].tolist(), strict=True)))
        return answers

    def _scores(self, histories: list[list[int]]) -> Tensor:
        """float[requests, items]; the transformer runs once over all histories that have events."""
        warm = [row for row, history in enumerate(histories) if history]
        if not warm:
            return self.cold.repeat(len(histories), 1)
        told = [histories[row] for row in warm]
        known = self.model.scores(self.model.encode(told), told)
        if len(warm) == len(histories):
            return known
        scores = self.cold.repeat(len(histories), 1)
        scores[warm] = known
        return scores

    @torch.inference_mode()
    def _cold_scores(self) -> Tensor:
        """float[items]: log of the chance of each item after one event, averaged over events.

        An artefact holds no counts; averaged over what a first event may be, the model's own
        predictions favour what is popular. A vocabulary above `COLD_SAMPLE` is sampled evenly.
        """
        size = len(self.items)
        firsts = np.unique(np.linspace(0, size - 1, min(size, COLD_SAMPLE)).astype(np.int64))
        chance = torch.zeros(size)
        for part in np.array_split(firsts, -(-len(firsts) // 64)):
            scores = self.model.scores(self.model.encode([[first] for first in part.tolist()]))
            chance += scores.softmax(dim=1).sum(dim=0)
        return (chance / len(firsts)).log()
