"""A causal transformer over a user's events, on packed batches.

SASRec (Kang and McAuley, 2018) with the now usual changes: pre-norm blocks, fused attention
kernels, GELU, and the item embeddings tied to the output layer. To each item's embedding a vector
is added that is made of its text or, where items have none, of its neighbours in people's
histories, on the way in and on the way out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from recsys.bags import Bags, BagTower
from recsys.errors import RecsysError
from recsys.packing import Packed, Windows, pack
from recsys.recipe import Recipe
from recsys.text import hash_texts


# An optimizer that moves every weight by about its rate a step would need many epochs to bring one
# number to where it matters.
SEEN_BIAS_SCALE = 40.0


@dataclass(frozen=True)
class TableRows:
    """Some rows of an item table, used as the whole would be where no others are asked for.

    ``table[indices]`` looks rows up by their index in the whole, ``table[:n]`` is a table of the
    first `n`.

    Attributes
    ----------
    rows
        float[n, d].
    indices
        int64[n], sorted: which rows they are.
    count
        Rows of the whole table.
    """

    rows: Tensor
    indices: Tensor
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, which: slice | Tensor) -> TableRows | Tensor:
        if isinstance(which, slice):
            return replace(self, count=which.stop)
        return F.embedding(torch.searchsorted(self.indices, which), self.rows)


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
    texts
        Features of the items' texts (`recsys.text.read_catalogue`), where there are any.
    neighbours
        Those of the items (`recsys.neighbours.neighbours`), where they are to count.

    Raises
    ------
    RecsysError
        When there are not as many texts, or items with neighbours, as items.
    """

    def __init__(
        self,
        items: int,
        recipe: Recipe,
        texts: Bags | None = None,
        neighbours: Bags | None = None,
    ) -> None:
        super().__init__()
        for bags, what in ((texts, "item texts"), (neighbours, "lists of neighbours")):
            if bags is not None and len(bags.offsets) != items + 1:
                raise RecsysError(f"{len(bags.offsets) - 1} {what} for {items} items")
        self.items = items
        self.length = recipe.length
        self.recompute, self.bfloat16 = recipe.activation_checkpointing, recipe.bfloat16
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
        self.text_tower = BagTower(texts, recipe.dimension) if texts else None
        self.neighbour_tower = None
        if neighbours:
            self.neighbour_tower = BagTower(
                neighbours, recipe.dimension, recipe.neighbour_dropout
            )
        self._seen_bias = nn.Parameter(torch.zeros(()))

    @property
    def seen_bias(self) -> Tensor:
        """Scalar that is added to the scores of items that the user has had.

        Vectors that make an item likely after the like of it make it likely after itself. Whether
        people come back for the same thing is a matter of the shop, and one number learns it.
        """
        return self._seen_bias * SEEN_BIAS_SCALE

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._seen_bias.device

    @property
    def mask(self) -> int:
        """Item index that stands for a hidden event in pretraining."""
        return self.items

    @property
    def output_table(self) -> Tensor:
        """float[items, d]: the items' vectors, which are also the output layer."""
        return self.input_table()[: self.items]

    @property
    def towers(self) -> list[BagTower]:
        """Those that give each item a vector beside its embedding."""
        return [tower for tower in (self.text_tower, self.neighbour_tower) if tower is not None]

    def input_table(self, wanted: Tensor | None = None) -> Tensor | TableRows:
        """float[items + 1, d]: what the transformer reads for each item and for the mask.

        Given the items int64[...] of which alone the rows are wanted, only those are made.
        """
        table = self.item_embedding.weight
        if wanted is not None:
            indices = wanted.unique()
            rows = F.embedding(indices, table)
            for tower in self.towers:
                rows = rows + tower(indices)
            return TableRows(rows, indices, len(table))
        for tower in self.towers:
            table = table + F.pad(tower(), (0, 0, 0, 1))
        return table

    def look_up(self, items: Tensor, table: Tensor | TableRows) -> Tensor:
        """float[events, d] of int64[events] in an `input_table`."""
        return table[items] if isinstance(table, TableRows) else F.embedding(items, table)

    def forward(
        self, packed: Packed, *, causal: bool = True, table: Tensor | None = None
    ) -> Tensor:
        """Hidden states float[events, d] of packed sequences.

        Causal: event t sees events up to t. Otherwise each event sees its whole sequence. Who has
        the `input_table` at hand gives it, so that the texts are not read again.
        """
        device = self.device
        table = self.input_table() if table is None else table
        x = self.look_up(packed.items.to(device), table)
        x = self.dropout(x + self.position_embedding(packed.positions.to(device)))
        rounded = self.bfloat16 and self.training
        with torch.autocast(device.type, torch.bfloat16, enabled=rounded):
            for block in self.blocks:
                if self.recompute and self.training:
                    x = checkpoint(block, x, packed.groups, causal, use_reentrant=False)
                else:
                    x = block(x, packed.groups, causal)
        return self.norm(x)

    def scorer(self) -> Callable[[Sequence[Sequence[int] | np.ndarray]], Tensor]:
        """A function that gives the `scores` float[B, items] of B histories, `encode`d.

        The items' vectors are made once, here: for who asks it often and changes no weight between.
        """
        table = self.input_table()

        def scores(histories: Sequence[Sequence[int] | np.ndarray]) -> Tensor:
            return self.scores(self.encode(histories, table), histories, table)

        return scores

    def encode(
        self, sequences: Sequence[Sequence[int] | np.ndarray], table: Tensor | None = None
    ) -> Tensor:
        """State of each user after their history.

        Parameters
        ----------
        sequences
            Item indices, oldest first; only the latest `length` of each count.
        table
            The `input_table`, of who has it at hand.

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
        states = self(packed, table=table)[packed.last]
        return states[torch.from_numpy(np.argsort(order))]

    def folded(self) -> SequentialRecommender:
        """A model that answers as this one, the towers' vectors added into its item embeddings.

        For serving and export, where texts and neighbours need not be read for each request.
        """
        model = copy.deepcopy(self).eval()
        with torch.no_grad():
            model.item_embedding.weight.copy_(model.input_table())
        model.text_tower = model.neighbour_tower = None
        return model

    def with_new_items(self, texts: Sequence[str]) -> SequentialRecommender:
        """A model that also recommends items of which it knows nothing but their texts.

        Parameters
        ----------
        texts
            Of the new items, which get the indices from `items` on.

        Raises
        ------
        RecsysError
            When this model was trained without texts.
        """
        if self.text_tower is None:
            raise RecsysError(
                "the model was trained without item texts, so it cannot recommend an item that "
                "has no events; train it on data with texts"
            )
        model = copy.deepcopy(self)
        tower, new = model.text_tower, hash_texts(texts, self.text_tower.embedding.num_embeddings)
        model.items = self.items + len(texts)
        table = self.item_embedding.weight.detach()
        unknown = table.new_zeros(len(texts), table.shape[1])
        model.item_embedding = nn.Embedding.from_pretrained(
            torch.cat([table[: self.items], unknown, table[self.items :]]), freeze=False
        )
        tower.append(new)
        if model.neighbour_tower is not None:
            model.neighbour_tower.append(hash_texts([""] * len(texts), 1))
        return model

    def scores(
        self,
        state: Tensor,
        histories: Sequence[Sequence[int] | np.ndarray] | None = None,
        table: Tensor | None = None,
    ) -> Tensor:
        """float[B, items] of states float[B, d]; higher is more likely to be next.

        Given the B histories, the scores count what it means to have had an item before. `table`
        is the `input_table`, of who has it at hand.
        """
        scores = self.similarities(state, self.input_table() if table is None else table)
        if histories is not None and len(histories):
            seen = [np.unique(np.asarray(history, dtype=np.int64)) for history in histories]
            rows = np.repeat(np.arange(len(seen)), [len(items) for items in seen])
            scores[rows, np.concatenate(seen)] += self.seen_bias
        return scores

    def similarities(self, state: Tensor, table: Tensor) -> Tensor:
        """float[B, items] of states float[B, d] and the `input_table`, whatever users have had."""
        return state @ table[: self.items].T
