from __future__ import annotations

import numpy as np
import pytest

from federation.errors import FederationError
from federation.strategies.averaging import FedAvg
from federation.strategies.personal import personal_names, shared, with_personal
from federation.updates import Update, difference

MODEL = {
    "item_embedding.weight": np.zeros((3, 2), np.float32),
    "position_embedding.weight": np.zeros((4, 2), np.float32),
    "blocks.0.attention_norm.weight": np.ones(2, np.float32),
    "norm.bias": np.zeros(2, np.float32),
}


def test_patterns_name_layers() -> None:
    assert personal_names(MODEL, ["*norm*", "position_embedding.*"]) == [
        "blocks.0.attention_norm.weight", "norm.bias", "position_embedding.weight",
    ]  # fmt: skip
    assert personal_names(MODEL, []) == []


def test_a_pattern_that_names_nothing_or_everything_is_refused() -> None:
    with pytest.raises(FederationError, match=r"'user\*' names no layer .* norm.bias"):
        personal_names(MODEL, ["*norm*", "user*"])
    with pytest.raises(FederationError, match="nothing is left to share"):
        personal_names(MODEL, ["*"])


def test_personal_layers_never_move_the_server_and_last_at_the_site() -> None:
    personal = personal_names(MODEL, ["*norm*"])
    server, own = MODEL, {"north": {}, "south": {}}
    for _ in range(3):
        sent = []
        for step, site in enumerate(own, start=1):
            received = with_personal(server, own[site], personal)
            trained = {name: array + np.float32(step) for name, array in received.items()}
            own[site] = {name: trained[name] for name in personal}
            sent.append(Update(site, shared(difference(trained, received), personal), 1, 1.0))
        server, _ = FedAvg().aggregate(server, sent, {})
    assert (server["item_embedding.weight"] == 4.5).all()
    assert (server["norm.bias"] == 0).all()
    assert (own["north"]["norm.bias"] == 3).all()
    assert (own["south"]["norm.bias"] == 6).all()
