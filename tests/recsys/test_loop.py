from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys.data.interactions import Interactions
from recsys.errors import RecipeError
from recsys.finetune import train_local
from recsys.loop import running_average, train_epoch, warmup_and_decay, weights_of
from recsys.model import SequentialRecommender
from recsys.objectives import NextItem, Pretraining
from recsys.packing import Windows
from recsys.randomness import Stage
from recsys.recipe import Recipe
from recsys.text import hash_texts

RECIPE = Recipe(
    dimension=8, heads=1, blocks=1, batch_tokens=10, epochs=5, warmup_steps=9, learning_rate=1.0
)
# 100 events: ten steps an epoch, fifty in all.
WINDOWS = Windows(np.zeros(100, dtype=np.int32), np.arange(0, 100, 10), np.full(10, 10))
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


# Of 12 events some parts have none. With 20 negatives two of the losses do draw them.
@pytest.mark.parametrize("batch_tokens", [12, 2048])
@pytest.mark.parametrize(
    ("kind", "chosen"),
    [
        (NextItem, {"loss": "softmax"}),
        (NextItem, {"loss": "sampled"}),
        (NextItem, {"loss": "gbce"}),
        (Pretraining, {"masked_item": 1.0}),
        (Pretraining, {"masked_item": 0.0, "skip_gram": 2.0}),
    ],
)
def test_parts_add_up_to_the_gradient_of_the_batch(
    shop: Interactions, kind: type, chosen: dict, batch_tokens: int
) -> None:
    changes = chosen | {"negatives": 20, "batch_tokens": batch_tokens}
    gradients = []
    for accumulation in (1, 5):
        recipe = Recipe(**SHAPE | changes | {"accumulation": accumulation})
        torch.manual_seed(0)
        model = SequentialRecommender(len(shop.items), recipe, hash_texts(shop.item_text, 512))
        found = []

        def keep(model=model, found=found) -> None:
            found.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})

        still = torch.optim.SGD(model.parameters(), lr=0.0)
        few = kind(shop.select(range(20)), recipe)
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


@pytest.mark.parametrize("final", [0.1, 1.0])
def test_the_rate_rises_and_then_falls_to_its_final_share(final: float) -> None:
    recipe = Recipe(**(RECIPE.to_dict() | {"final_rate": final}))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = warmup_and_decay(optimizer, recipe, WINDOWS)
    rates = []
    for _ in range(60):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.1)
    assert rates[:9] == sorted(rates[:9])
    assert rates[25] == pytest.approx((1 + final) / 2)
    assert rates[50:] == pytest.approx([final] * 10), "a longer run stays at the last rate"


@pytest.mark.parametrize("epochs", [0.0, 2.0])
def test_the_average_covers_about_the_last_epochs(epochs: float) -> None:
    recipe = Recipe(**(RECIPE.to_dict() | {"average_epochs": epochs}))
    model = SequentialRecommender(4, recipe)
    average = running_average(model, recipe, WINDOWS)
    values = torch.linspace(0, 1, 400)
    for value in values:
        with torch.no_grad():
            model.position_embedding.weight.fill_(value)
        average.update_parameters(model)
    given = average.module.position_embedding.weight[0, 0].item()
    weights = (1 - 1 / 20) ** np.arange(399, -1, -1)
    expected = (weights * values.numpy()).sum() / weights.sum() if epochs else 1.0
    assert given == pytest.approx(expected, abs=1e-3)
