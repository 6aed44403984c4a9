"""The order in which an all-reduce adds, so that a simulated sum has the bits of a real one.

Floating-point addition commutes but does not associate. gloo's ring cuts a tensor into one chunk per rank; the sum of
chunk c starts at rank c - 1 and collects ranks c - 2, c - 3, ... downwards, round to c. Two workers add in either order
to the same bits. Above `RING` workers the simulator adds in the order of ranks, which differs from a real ring in
rounding only.
"""

from __future__ import annotations

from collections.abc import Sequence

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
        total = tensors[0] * scales[0]
        for tensor, scale in zip(tensors[1:], scales[1:], strict=True):
            total.add_(tensor, alpha=scale)
        return total
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
