"""A table spread over two processes, next to the same table in one."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

members = runpy.run_path(str(Path(__file__).with_name("members.py")))


# With one item the second process has none of the output layer, only the row of the mask.
@pytest.mark.parametrize("rows", [1, 7, 30])
def test_look_ups_softmax_scores_and_gradients_are_those_of_the_whole_table(
    rows: int, tmp_path: Path, gang
) -> None:
    assert gang.run(2, "shard_one_table", rows, tmp_path / "found") == [0, 0]
    found = [torch.load(tmp_path / f"found{rank}", weights_only=True) for rank in (0, 1)]

    table, bias, events = members["problem"](rows)
    table.requires_grad_()
    bias.requires_grad_()
    for rank, (hidden, targets, biased, lookups, scale) in enumerate(events):
        own = found[rank]
        hidden.requires_grad_()
        there = torch.zeros(len(hidden), rows)
        there[biased] = 1.0
        logits = hidden @ table[:rows].T + bias * there
        loss = F.cross_entropy(logits, targets, reduction="sum") / max(len(targets), 1)
        (scale * (loss + table[lookups].square().sum())).backward()
        torch.testing.assert_close(own["loss"], loss.detach())
        torch.testing.assert_close(own["found"], table[lookups].detach())
        torch.testing.assert_close(own["hidden"], hidden.grad)
        torch.testing.assert_close(
            own["scores"], (members["states"](rank) @ table[:rows].T).detach()
        )
    torch.testing.assert_close(found[0]["table"], table.grad)
    torch.testing.assert_close(found[0]["bias"] + found[1]["bias"], bias.grad)
    assert [int(own["held"]) for own in found] == [(rows + 2) // 2, (rows + 1) // 2]
