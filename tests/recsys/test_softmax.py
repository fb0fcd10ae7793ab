from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from recsys import softmax
from recsys.softmax import chunked_cross_entropy


@pytest.mark.parametrize(("rows", "items", "in_flight"), [(1, 7, 1), (100, 37, 1), (70, 9, 360)])
def test_loss_and_gradients_are_those_of_the_whole_softmax(
    rows: int, items: int, in_flight: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(softmax, "LOGITS_IN_FLIGHT", in_flight)
    torch.manual_seed(0)
    hidden = torch.randn(rows, 8, dtype=torch.double, requires_grad=True)
    table = torch.randn(items, 8, dtype=torch.double, requires_grad=True)
    targets = torch.randint(items, (rows,))

    (3 * F.cross_entropy(hidden @ table.T, targets)).backward()
    expected = hidden.grad, table.grad
    hidden.grad = table.grad = None
    loss = chunked_cross_entropy(hidden, table, targets)
    (3 * loss).backward()

    assert loss.item() == pytest.approx(F.cross_entropy(hidden @ table.T, targets).item())
    torch.testing.assert_close((hidden.grad, table.grad), expected)


@pytest.mark.parametrize("in_flight", [1, 10**6])
def test_a_bias_at_some_places_is_learnt_with_the_rest(
    in_flight: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(softmax, "LOGITS_IN_FLIGHT", in_flight)
    torch.manual_seed(0)
    hidden = torch.randn(100, 8, dtype=torch.double, requires_grad=True)
    table = torch.randn(9, 8, dtype=torch.double, requires_grad=True)
    bias = torch.tensor(0.7, dtype=torch.double, requires_grad=True)
    targets = torch.randint(9, (100,))
    there = torch.rand(100, 9) < 0.3
    everything = hidden, table, bias

    expected = F.cross_entropy(hidden @ table.T + bias * there, targets)
    biased = there.nonzero(as_tuple=True)
    loss = chunked_cross_entropy(hidden, table, targets, bias=bias, biased=biased)

    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        torch.autograd.grad(loss, everything), torch.autograd.grad(expected, everything)
    )


def test_huge_logits_stay_finite() -> None:
    hidden = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    table = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    chunked_cross_entropy(hidden, table, torch.tensor([0, 0])).backward()
    assert hidden.grad.isfinite().all() and table.grad.isfinite().all()
    assert hidden.grad.tolist() == [[0.0], [-1.0]]
