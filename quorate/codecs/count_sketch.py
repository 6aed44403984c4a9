"""Count-sketch: a table of random sums, from which the largest entries of all workers' sum can be read.

Each row of the table adds up an update's entries, by random signs, in cells that a hash function gives. Sketches of
workers add up on their way to the sketch of the sum, so that entries count that are large only together. An entry's
estimate is the median over rows; the largest estimates are what is said, and the rest stays in the sketch.

Source: Charikar, Chen and Farach-Colton, "Finding frequent items in data streams", ICALP 2002, section 3; Rothchild et
al., "FetchSGD: communication-efficient federated learning with sketching", ICML 2020, algorithm 1, without momentum.
Hashes: Dietzfelbinger, "Universal hashing and k-wise independence via integer arithmetic", STACS 1996.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from quorate.codecs import State
from quorate.codecs._sparsifier import count
from quorate.codecs._together import Together
from quorate.collectives import Collective
from quorate.node import Node
from quorate.rand import At, Rand
from quorate.trees import leaf
from quorate.wire import Message

_CHUNK = 1 << 16  # entries that are hashed at once: they fit into a cache
_WORD = 64  # bits


@dataclass(frozen=True)
class CountSketch(Together):
    """Say the k largest entries of the sum of all workers' updates, by sketches that are summed on their way.

    What is left of the sketches is kept, in equal shares, by the workers, and counts in the next step; so a worker
    remembers a table, however long the update is. Found are entries that stand out of the others' norm divided by
    sqrt(columns), which single gradients seldom have. An update that is no longer than its sketch is sent as it is.

    Args:
        ratio: k / d.
        rows: of the table.
        cells: of each row for each entry that is said, at least; a row has a power of two of them.
        error_feedback: add to each sketch what the ones before have left unsaid.
    """

    ratio: Annotated[float, Field(gt=0, le=1)] = 0.001
    rows: Literal[1, 3, 5] = 5
    cells: Annotated[float, Field(gt=0)] = 20.0
    error_feedback: bool = True

    def shape(self, d: int) -> tuple[int, int]:
        """Return rows and columns of the table for updates of shape (d,)."""
        return self.rows, 1 << max(1, round(self.cells * count(self.ratio, d)) - 1).bit_length()

    def sketches(self, d: int) -> bool:
        """Return whether an update of shape (d,) is longer than its table."""
        rows, columns = self.shape(d)
        return rows * columns < d

    def init(self, like: Tensor) -> State:
        """Begin without a residual."""
        if not self.error_feedback or not self.sketches(len(like)):
            return {}
        return {"sketch": like.new_zeros(self.shape(len(like)))}

    def emits(self, like: Tensor) -> Message:
        """Declare a table."""
        return (like.new_empty(self.shape(len(like))),) if self.sketches(len(like)) else (like,)

    def sketch(self, indices: Tensor | None, values: Tensor, shape: tuple[int, int], rand: Rand) -> Tensor:
        """Return the table (rows, columns) of a vector's entries.

        Args:
            indices: (k,), int64, of the values; None: 0 .. k - 1.
            rand: of the hashes; sketches of one stream add up.
        """
        tables = values.new_zeros(shape[0], 2 * shape[1])  # sums of what counts as it is, and of what is subtracted
        for table, chunk, cells in _hashed(indices, tables, len(values), rand):
            table.index_add_(0, cells, values[chunk])
        plus, minus = tables.split(shape[1], dim=1)
        sums: Tensor = plus - minus
        return sums

    def estimated(self, sketch: Tensor, out: Tensor, rand: Rand) -> Tensor:
        """Write the estimates of the entries 0 .. d - 1 that a table was made of into a vector (d,); return it."""
        tables, estimates = torch.cat([sketch, -sketch], dim=1), []
        for table, chunk, cells in _hashed(None, tables, len(out), rand):
            estimates.append(table.index_select(0, cells))
            if len(estimates) == len(tables):
                out[chunk] = _median(estimates)
                estimates = []
        return out

    async def meet(
        self, node: Node, update: Tensor, state: State, at: At, share: float, collective: Collective
    ) -> tuple[Tensor, State]:
        """See `quorate.exchange.Meeting`. The estimates take the update's memory; what else it takes is O(k)."""
        d, rand = len(update), at.rand.fold("count_sketch")
        if not self.sketches(d):
            return await collective(node, update, share), state
        update, shape = update.contiguous(), self.shape(d)
        own = self.sketch(None, update, shape, rand).mul_(share)
        if self.error_feedback:
            own = leaf(state, "sketch").add_(own)
        total = await collective(node, own.clone().view(-1))
        estimates = self.estimated(total.view(shape), update, rand)
        largest = estimates.abs().topk(count(self.ratio, d), sorted=False).indices
        said = estimates[largest]
        update.zero_()[largest] = said
        if self.error_feedback:
            return update, {"sketch": own.sub_(self.sketch(largest, said, shape, rand), alpha=1 / node.size)}
        return update, state


def _hashed(indices: Tensor | None, tables: Tensor, numel: int, rand: Rand) -> Iterator[tuple[Tensor, slice, Tensor]]:
    """Yield (a row, a chunk of the entries, the cell in the row of each), all rows of a chunk after one another.

    The cell is the highest bits of a * index + b modulo 2**64, for random a and b: any two entries' cells are
    independent. `tables` has a power of two of columns, at least 2.
    """
    rows, columns = tables.shape
    factors = torch.randint(-(1 << 63), (1 << 63) - 1, (rows, 2), generator=rand.generator()).tolist()
    shift, mask = _WORD - columns.bit_length() + 1, columns - 1
    within = torch.arange(min(_CHUNK, numel), device=tables.device) if indices is None else indices
    cells = torch.empty_like(within)
    for start in range(0, numel, _CHUNK) if indices is None else (0,):
        length = min(_CHUNK, numel - start) if indices is None else numel
        for table, (a, b) in zip(tables, factors, strict=True):
            offset = (a * start + b + (1 << 63)) % (1 << _WORD) - (1 << 63)
            hashes = torch.mul(within[:length], a, out=cells[:length]).add_(offset)
            yield table, slice(start, start + length), hashes.bitwise_right_shift_(shift).bitwise_and_(mask)


def _median(rows: list[Tensor]) -> Tensor:
    """Return the median of 1, 3 or 5 tensors, entry by entry; by comparisons a hundred times as fast as by sorting."""
    if len(rows) == 1:
        return rows[0]
    if len(rows) == 3:
        a, b, c = rows
        return torch.maximum(torch.minimum(a, b), torch.minimum(torch.maximum(a, b), c))
    a, b, c, d, e = rows
    low = torch.maximum(torch.minimum(a, b), torch.minimum(c, d))
    high = torch.minimum(torch.maximum(a, b), torch.maximum(c, d))
    return _median([low, high, e])


EXAMPLES = (CountSketch(0.05, cells=2), CountSketch(0.1, rows=3, cells=1, error_feedback=False), CountSketch())
