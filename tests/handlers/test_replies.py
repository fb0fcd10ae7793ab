from __future__ import annotations

import json

from handlers.replies import reply

DIGEST = "sha256:" + "a" * 64


def test_a_number_that_json_does_not_have_is_a_failure_and_an_id_of_its_letters_is_none() -> None:
    status, body = reply({"ratings": [{"item": "a", "rating": float("nan")}]}, DIGEST)
    assert (status, list(json.loads(body))) == (500, ["error"])
    assert reply({"clicks": [{"item": "a", "probability": float("-inf")}]}, DIGEST)[0] == 500
    status, body = reply({"ratings": [{"item": "NaN", "rating": 4.5}]}, DIGEST)
    assert status == 200
    assert json.loads(body) == {"ratings": [{"item": "NaN", "rating": 4.5}], "model": DIGEST}
