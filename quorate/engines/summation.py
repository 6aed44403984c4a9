"""The order in which an all-reduce adds, so that a simulated sum has the bits of a real one.

Floating-point addition commutes but does not associate. gloo's ring cuts a tensor into one chunk per rank; the sum of
chunk c starts at rank c - 1 and collects ranks c - 2, c - 3, ... downwards, round to c. Two workers add in either order
to the same bits. Above `RING` workers the simulator adds in another order, which differs from a real
ring in rounding only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

RING = 32
_SEGMENT_BYTES = 1 << 20  # gloo's largest segment


def chunk_length(numel: int, element_size: int, size: int) -> int:
    """Return the entries of one rank's chunk in gloo's ring over `size` ranks."""
    total = numel * element_size
    segments = max(-(-total // _SEGMENT_BYTES), 2 * size)
    per_rank = -(-segments // size)
    segment = -(-total // (per_rank * size))
    return per_rank * -(-segment // element_size)


def ring_sum(tensors: Sequence[Tensor], scales: Sequence[float] | None = None) -> Tensor:
    """Add tensors of one shape, one per rank, in the order that gloo's ring adds them.

    Args:
        scales: what each is multiplied by before; None: by 1.

    Returns:
        A new tensor of the same shape and dtype; the given ones are not written to.
    """
    size = len(tensors)
    if scales is None or all(scale == 1 for scale in scales):
        scales = [1] * size
    if size > RING:
        return _sum_of_many(tensors, scales)
    tensors = [tensor if scale == 1 else tensor * scale for tensor, scale in zip(tensors, scales, strict=True)]
    if size <= 2:
        return tensors[0].clone() if size == 1 else tensors[0] + tensors[1]
    flat = [tensor.reshape(-1) for tensor in tensors]
    length = chunk_length(flat[0].numel(), flat[0].element_size(), size)
    total = flat[0].new_empty(flat[0].shape)
    for chunk in range(size):
        part = slice(chunk * length, (chunk + 1) * length)
        piece = total[part].copy_(flat[chunk - 1][part])
        for back in range(2, size + 1):
            piece += flat[(chunk - back) % size][part]
    return total.view(tensors[0].shape)


def _sum_of_many(tensors: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
    """Add in the order of ranks, tensors that are rows of one matrix at once: one pass over memory instead of two."""
    total = torch.zeros_like(tensors[0])
    first = 0
    while first < len(tensors):
        rows = _rows_from(tensors, first)
        if len(rows) > 1:
            total += (rows.new_tensor(scales[first : first + len(rows)]) @ rows).view(total.shape)
        else:
            total.add_(tensors[first], alpha=scales[first])
        first += len(rows)
    return total


def _rows_from(tensors: Sequence[Tensor], first: int) -> Tensor:
    """Return the matrix that a tensor and those after it are the rows of, as far as they lie in one memory in order."""
    tensor, count = tensors[first], 1
    if tensor.is_floating_point() and tensor.is_contiguous() and tensor.numel():
        storage, step, place = tensor.untyped_storage(), tensor.numel() * tensor.element_size(), tensor.data_ptr()
        room = (storage.data_ptr() + storage.nbytes() - place) // step
        while count < min(room, len(tensors) - first) and tensors[first + count].data_ptr() == place + count * step:
            count += 1
    return tensor.as_strided((count, tensor.numel()), (tensor.numel(), 1)) if count > 1 else tensor[None]
