"""A table spread over two processes, next to the same table in one."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

problem = runpy.run_path(str(Path(__file__).with_name("members.py")))["problem"]


# With one row the second process has nothing to hold.
@pytest.mark.parametrize("rows", [1, 7, 30])
def test_look_ups_softmax_scores_and_gradients_are_those_of_the_whole_table(
    rows: int, tmp_path: Path, gang
) -> None:
    assert gang.run(2, "shard_one_table", rows, tmp_path / "found") == [0, 0]
    found = [torch.load(tmp_path / f"found{rank}", weights_only=True) for rank in (0, 1)]

    table, events = problem(rows)
    table.requires_grad_()
    for (hidden, targets, lookups, scale), own in zip(events, found, strict=True):
        hidden.requires_grad_()
        loss = F.cross_entropy(hidden @ table.T, targets)
        (scale * (loss + table[lookups].square().sum())).backward()
        torch.testing.assert_close(own["loss"], loss.detach())
        torch.testing.assert_close(own["found"], table[lookups].detach())
        torch.testing.assert_close(own["hidden"], hidden.grad)
        torch.testing.assert_close(own["scores"], (hidden[:3] @ table.T).detach())
    torch.testing.assert_close(found[0]["table"], table.grad)
    assert [int(own["held"]) for own in found] == [(rows + 1) // 2, rows // 2]
