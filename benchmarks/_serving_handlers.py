"""What our handler is measured against: TorchServe's own way of serving the same model."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from ts.torch_handler.base_handler import BaseHandler


class StockHandler(BaseHandler):
    """The same model run eagerly, a request at a time: what one writes from the documentation."""

    def initialize(self, context) -> None:
        from recsys.artifact import load_model

        folder = Path(context.system_properties["model_dir"]) / "artifact"
        loaded = load_model(folder)
        # The texts are read once, as in ours: not that is compared.
        self.model, self.items = loaded.model.folded(), loaded.items
        self.places = {item: place for place, item in enumerate(loaded.items)}
        self.initialized = True

    def handle(self, data, context) -> list[dict]:
        return self.postprocess(self.inference(self.preprocess(data)))

    def preprocess(self, data) -> tuple[list[list[int]], int]:
        requests = [json.loads(row["body"]) for row in data]
        histories = [[self.places[item] for item in request["history"]] for request in requests]
        return histories, requests[0]["k"]

    def inference(self, asked) -> tuple[torch.Tensor, torch.Tensor]:
        histories, k = asked
        with torch.inference_mode():
            scores = self.model.scores(self.model.encode(histories), histories)
            for row, history in enumerate(histories):
                scores[row, history] = -torch.inf
            return tuple(scores.topk(k))

    def postprocess(self, found) -> list[dict]:
        return [
            {"items": [{"item": self.items[place], "score": score}
                       for place, score in zip(places, scores, strict=True)]}
            for scores, places in zip(found[0].tolist(), found[1].tolist(), strict=True)
        ]  # fmt: skip
