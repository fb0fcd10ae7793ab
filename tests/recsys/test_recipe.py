from __future__ import annotations

import pytest

from recsys.errors import RecipeError
from recsys.recipe import Recipe


def test_what_is_left_out_keeps_its_default_and_the_round_trip_is_lossless() -> None:
    recipe = Recipe.from_dict({"dimension": 32, "learning_rate": 1})
    assert recipe == Recipe(dimension=32, learning_rate=1.0)
    assert isinstance(recipe.learning_rate, float)
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_a_rate_may_be_written_as_yaml_takes_for_text() -> None:
    assert Recipe.from_dict({"learning_rate": "1e-3"}).learning_rate == 1e-3


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"dimensions": 64}, "unknown key 'dimensions'; the keys are dimension, blocks"),
        ({"dimension": "64"}, "dimension is '64'; it must be a whole number"),
        ({"dimension": 64.5}, "dimension is 64.5; it must be a whole number"),
        ({"epochs": True}, "epochs is True; it must be a whole number"),
        ({"bfloat16": 1}, "bfloat16 is 1; it must be true or false"),
        ({"dropout": None}, "dropout is None; it must be a number"),
        ({"dropout": 1.0}, "dropout is 1.0; it must be in [0, 1)"),
        ({"dropout": float("nan")}, "dropout is nan; it must be in [0, 1)"),
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"learning_rate": 0}, "learning_rate is 0.0; it must be above 0"),
        ({"learning_rate": float("inf")}, "learning_rate is inf; it must be finite"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast'; it must be a number"),
        ({"heads": 3}, f"heads is 3; it must be a divisor of dimension {Recipe().dimension}"),
        ({"length": 1}, "length is 1; it must be at least 2"),
        ({"loss": "hinge"}, "loss is 'hinge'; it must be one of softmax, sampled, gbce"),
        ({"loss": 1}, "loss is 1; it must be a text"),
        ({"negatives": 0}, "negatives is 0; it must be at least 1"),
        ({"final_rate": 1.5}, "final_rate is 1.5; it must be in [0, 1]"),
        ({"contrastive": -1}, "contrastive is -1.0; it must be 0 or more"),
        (
            {"pretrain_epochs": 2, "masked_item": 0},
            "pretrain_epochs is 2; it must be 0 where none of masked_item, skip_gram",
        ),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(values: dict, sentence: str) -> None:
    with pytest.raises(RecipeError) as error:
        Recipe.from_dict(values)
    assert sentence in str(error.value)
    assert error.value.exit_code == 2
