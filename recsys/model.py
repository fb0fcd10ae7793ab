"""A causal transformer over a user's events, on packed batches.

SASRec (Kang and McAuley, 2018) with the now usual changes: pre-norm blocks, fused attention
kernels, GELU, and the item embeddings tied to the output layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from recsys.errors import RecsysError
from recsys.packing import Packed, Windows, pack
from recsys.recipe import Recipe


class Block(nn.Module):
    """Pre-norm self-attention and feed-forward, each with a residual."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        d = recipe.dimension
        self.heads = recipe.heads
        self.attention_norm = nn.LayerNorm(d)
        self.query_key_value = nn.Linear(d, 3 * d)
        self.attention_output = nn.Linear(d, d)
        self.feed_forward_norm = nn.LayerNorm(d)
        self.feed_forward = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))
        self.dropout = nn.Dropout(recipe.dropout)

    def forward(self, x: Tensor, groups: list[tuple[int, int]], causal: bool) -> Tensor:
        attended = self._attend(self.query_key_value(self.attention_norm(x)), groups, causal)
        x = x + self.dropout(self.attention_output(attended))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))

    def _attend(self, qkv: Tensor, groups: list[tuple[int, int]], causal: bool) -> Tensor:
        # A group's sequences have one length: a dense view, without padding and without a mask.
        outputs = []
        parts = qkv.split([count * length for count, length in groups])
        for part, (count, length) in zip(parts, groups, strict=True):
            q, k, v = part.view(count, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
            outputs.append(attended.transpose(1, 2).reshape(count * length, -1))
        return torch.cat(outputs)


class SequentialRecommender(nn.Module):
    """Scores every item as a user's next one.

    Parameters
    ----------
    items
        Size of the vocabulary. One more embedding row, the last, is the mask of pretraining.
    recipe
        Shape and dropout.
    """

    def __init__(self, items: int, recipe: Recipe) -> None:
        super().__init__()
        self.items = items
        self.length = recipe.length
        self.recompute = recipe.activation_checkpointing
        self.item_embedding = nn.Embedding(items + 1, recipe.dimension)
        self.position_embedding = nn.Embedding(recipe.length, recipe.dimension)
        self.dropout = nn.Dropout(recipe.dropout)
        self.blocks = nn.ModuleList(Block(recipe) for _ in range(recipe.blocks))
        self.norm = nn.LayerNorm(recipe.dimension)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.trunc_normal_(parameter, std=0.02, a=-0.04, b=0.04)
        # Logits of unit size from the first step on: smaller tied embeddings leave the softmax
        # flat, and the first epochs go into little but making them larger.
        nn.init.normal_(self.item_embedding.weight, std=recipe.dimension**-0.5)

    @property
    def mask(self) -> int:
        """Item index that stands for a hidden event in pretraining."""
        return self.items

    @property
    def output_table(self) -> Tensor:
        """float[items, d]: the item embeddings, which are also the output layer."""
        return self.item_embedding.weight[: self.items]

    def forward(self, packed: Packed, *, causal: bool = True) -> Tensor:
        """Hidden states float[events, d] of packed sequences.

        Causal: event t sees events up to t. Otherwise each event sees its whole sequence.
        """
        device = self.position_embedding.weight.device
        x = self.item_embedding(packed.items.to(device))
        x = self.dropout(x + self.position_embedding(packed.positions.to(device)))
        for block in self.blocks:
            if self.recompute and self.training:
                x = checkpoint(block, x, packed.groups, causal, use_reentrant=False)
            else:
                x = block(x, packed.groups, causal)
        return self.norm(x)

    def encode(self, sequences: Sequence[Sequence[int] | np.ndarray]) -> Tensor:
        """State of each user after their history.

        Parameters
        ----------
        sequences
            Item indices, oldest first; only the latest `length` of each count.

        Returns
        -------
        Tensor
            float[len(sequences), d], in the order given.

        Raises
        ------
        RecsysError
            When a history is empty, or names an item outside the vocabulary.
        """
        histories = [np.asarray(sequence, dtype=np.int64)[-self.length :] for sequence in sequences]
        lengths = np.array([len(history) for history in histories], dtype=np.int64)
        if not len(lengths):
            return self.item_embedding.weight.new_empty(0, self.item_embedding.embedding_dim)
        if not lengths.all():
            empty = int(lengths.argmin())
            raise RecsysError(f"history {empty} is empty: there is no event to encode")
        flat = np.concatenate(histories)
        unknown = flat[(flat < 0) | (flat >= self.items)]
        if len(unknown):
            raise RecsysError(
                f"a history names item {int(unknown[0])}, "
                f"the model knows the items 0 to {self.items - 1}"
            )
        order = np.argsort(lengths, kind="stable")
        packed, _ = pack(Windows(flat, np.cumsum(lengths) - lengths, lengths), order)
        states = self(packed)[packed.last]
        return states[torch.from_numpy(np.argsort(order))]

    def scores(self, state: Tensor) -> Tensor:
        """float[B, items] of states float[B, d]; higher is more likely to be next."""
        return state @ self.output_table.T
