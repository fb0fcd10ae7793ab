from __future__ import annotations

import pytest
import torch

from recsys.data.interactions import Interactions
from recsys.errors import RecipeError
from recsys.finetune import train_local
from recsys.loop import train_epoch, weights_of
from recsys.model import SequentialRecommender
from recsys.objectives import NextItem
from recsys.randomness import Stage
from recsys.recipe import Recipe

SHAPE = {"dimension": 16, "blocks": 3, "heads": 1, "batch_tokens": 2048}


def trained(shop: Interactions, **changes: object) -> tuple[dict[str, torch.Tensor], int]:
    """Weights after an epoch, and the bytes most of which were kept for a backward pass."""
    recipe = Recipe(**SHAPE | changes)
    torch.manual_seed(0)
    model = SequentialRecommender(len(shop.items), recipe)
    alive = most = 0

    class Kept:
        def __init__(self, tensor: torch.Tensor) -> None:
            nonlocal alive, most
            self.tensor = tensor
            alive += tensor.nbytes
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= self.tensor.nbytes

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        train_local(model, shop, recipe, epochs=1, seed=0)
    return weights_of(model), most


def test_checkpointed_activations_are_the_same_training_in_half_the_memory(
    shop: Interactions,
) -> None:
    (plain, much), (again, little) = (
        trained(shop, activation_checkpointing=on) for on in (False, True)
    )
    torch.testing.assert_close(again, plain, rtol=0, atol=0)
    assert little < much / 2


def test_accumulation_is_the_same_training_in_a_share_of_the_memory(shop: Interactions) -> None:
    (plain, much), (again, little) = (trained(shop, accumulation=n) for n in (1, 4))
    torch.testing.assert_close(again, plain, rtol=1e-3, atol=1e-4)
    assert little < much / 2


@pytest.mark.parametrize("batch_tokens", [12, 2048])
def test_parts_add_up_to_the_gradient_of_the_batch(shop: Interactions, batch_tokens: int) -> None:
    gradients = []
    for accumulation in (1, 5):  # of 12 events, some parts have none
        recipe = Recipe(**SHAPE | {"batch_tokens": batch_tokens, "accumulation": accumulation})
        torch.manual_seed(0)
        model = SequentialRecommender(len(shop.items), recipe)
        found = []

        def keep(model=model, found=found) -> None:
            found.append([parameter.grad.clone() for parameter in model.parameters()])

        still = torch.optim.SGD(model.parameters(), lr=0.0)
        few = NextItem(shop.select(range(20)), recipe)
        loss = train_epoch(model, still, few, recipe, 0, Stage.LOCAL, 0, before=keep)
        gradients.append((loss, found))
    (loss, whole), (again, parts) = gradients
    assert again == pytest.approx(loss)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


def test_bfloat16_trains_nearly_the_same_model_with_float32_weights(shop: Interactions) -> None:
    (plain, much), (rounded, little) = (trained(shop, bfloat16=on) for on in (False, True))
    assert {weight.dtype for weight in rounded.values()} == {torch.float32}
    name = "blocks.0.query_key_value.weight"
    off = (rounded[name] - plain[name]).norm().item()
    moved = (plain[name] - start(shop)[name]).norm().item()
    assert 0 < off < moved / 2
    assert little < much


def start(shop: Interactions) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return weights_of(SequentialRecommender(len(shop.items), Recipe(**SHAPE)))


@pytest.mark.parametrize("value", [0, -1])
def test_a_batch_has_at_least_one_part(value: int) -> None:
    with pytest.raises(RecipeError, match="accumulation is .*; it must be at least 1"):
        Recipe(accumulation=value)
