"""Passes over whole updates on a GPU, each a Triton kernel that reads and writes what it must, once.

They run for CUDA tensors of float32 or half precision where the package triton is there, which CUDA builds of torch
bring along; the plain functions of `quorate.selection` and of the codecs, which run everywhere else, are their
definitions. Where a kernel sums in another order, sums differ from the definition's by rounding; the rest is equal to
the bit. They have been tested in Triton's interpreter and compiled for GPUs, but not yet run on one.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Protocol

import torch
from torch import Tensor

LONGEST = 1 << 14
"""Entries of the longest block that is held in registers as a whole."""

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_OLDEST = (8, 0)  # compute capability that Triton needs


class Fused(Protocol):
    """A quantiser's two passes: see `quorate.codecs._quantiser.Quantiser`.

    Args of both:
        x, total: (d,), float32, contiguous.
        codes: the packed codes, uint8.
        numbers: (blocks, width), float32, of blocks of `block` entries.
    """

    def say(self, x: Tensor, codes: Tensor, numbers: Tensor, block: int, *, take: bool) -> None:
        """Fill codes and numbers; if `take`, subtract from x what they say."""

    def hear(self, total: Tensor, codes: Tensor, numbers: Tensor, block: int, share: float | None) -> None:
        """Add `share` times what is said to the total; if it is None, write what is said there."""


def usable(x: Tensor, block: int = 1) -> bool:
    """Return whether kernels run on x, of shape (d,), in blocks of so many entries."""
    return x.is_cuda and fitting(x, block) and _there(x.device)


def fitting(x: Tensor, block: int = 1) -> bool:
    """Return whether kernels are written for x, wherever it is."""
    return x.dtype in _DTYPES and x.is_contiguous() and block <= LONGEST and len(x) > 0


@cache
def _there(device: torch.device) -> bool:
    return find_spec("triton") is not None and torch.cuda.get_device_capability(device) >= _OLDEST
