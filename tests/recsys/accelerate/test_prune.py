from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.utils import parametrize

from recsys.accelerate.prune import fit_shapes, make_permanent, prune_magnitude, prune_structure
from recsys.artifact import LoadedModel, load_model, save_model
from recsys.data.interactions import Interactions
from recsys.data.split import leave_one_out
from recsys.errors import RecsysError
from recsys.finetune import train_local

HISTORIES = [[1, 2, 3], [4], [5, 6, 7, 8, 9]]


@pytest.fixture
def loaded(artifact: Path) -> LoadedModel:
    return load_model(artifact)


def test_heads_and_units_go_by_share_and_at_least_one_of_each_stays(
    loaded: LoadedModel, shop: Interactions
) -> None:
    split = leave_one_out(shop)
    prune_structure(loaded.model, split, loaded.recipe, 0.5)
    assert [block.heads for block in loaded.model.blocks] == [2, 2]
    assert [block.feed_forward[0].out_features for block in loaded.model.blocks] == [32, 32]
    prune_structure(loaded.model, split, loaded.recipe, 0.999)
    assert [block.heads for block in loaded.model.blocks] == [1, 1]
    assert loaded.model.encode(HISTORIES).isfinite().all()


def test_what_does_nothing_is_removed_first_and_the_answer_stays(
    loaded: LoadedModel, shop: Interactions
) -> None:
    with torch.no_grad():
        for block in loaded.model.blocks:
            block.attention_output.weight[:, 4:12] = 0  # heads 1 and 2 of four, 4 wide each
            block.feed_forward[2].weight[:, ::2] = 0
    before = loaded.model.encode(HISTORIES)
    prune_structure(loaded.model, leave_one_out(shop), loaded.recipe, 0.5)
    torch.testing.assert_close(loaded.model.encode(HISTORIES), before)


def test_a_pruned_model_is_stored_and_loaded_with_its_smaller_layers(
    loaded: LoadedModel, shop: Interactions, tmp_path: Path
) -> None:
    prune_structure(loaded.model, leave_one_out(shop), loaded.recipe, 0.25)
    folder = save_model(tmp_path, loaded.model, loaded.recipe, loaded.items, {})
    again = load_model(folder).model
    assert [block.heads for block in again.blocks] == [3, 3]
    assert torch.equal(again.encode(HISTORIES), loaded.model.encode(HISTORIES))


def test_weights_that_no_pruning_left_are_still_refused(
    loaded: LoadedModel, tmp_path: Path
) -> None:
    block = loaded.model.blocks[0]
    block.feed_forward[0] = torch.nn.Linear(16, 65)
    folder = save_model(tmp_path, loaded.model, loaded.recipe, loaded.items, {})
    with pytest.raises(RecsysError, match="does not fit recipe.json"):
        load_model(folder)
    fit_shapes(loaded.model, {}, loaded.recipe)  # nothing to go by: nothing is changed
    assert block.heads == 4


def test_magnitude_pruning_zeroes_the_smallest_and_they_stay_zero_in_training(
    loaded: LoadedModel, shop: Interactions
) -> None:
    linears = [m for m in loaded.model.blocks.modules() if isinstance(m, torch.nn.Linear)]
    before = torch.cat([layer.weight.detach().flatten() for layer in linears]).abs()
    prune_magnitude(loaded.model, 0.3)
    train_local(loaded.model, leave_one_out(shop).train, loaded.recipe, epochs=1, seed=1)
    make_permanent(loaded.model)
    after = torch.cat([layer.weight.detach().flatten() for layer in linears])
    zero = after == 0
    assert zero.double().mean().item() == pytest.approx(0.3, abs=1e-3)
    assert before[zero].max() <= before[~zero].min()
    assert not any(parametrize.is_parametrized(layer) for layer in linears)
    assert "blocks.0.feed_forward.0.weight" in loaded.model.state_dict()
