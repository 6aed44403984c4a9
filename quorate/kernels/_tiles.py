"""How kernels cut a vector into tiles, each the work of one program."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 4096  # entries: 16 of each thread of 8 warps
EXACT = {"enable_fp_fusion": False}  # a product is rounded before it is added to: as in the definitions


@triton.jit
def loaded(x: tl.tensor, first: tl.tensor, d: int, TILE: tl.constexpr) -> tl.tensor:
    """Return the entries (TILE,) from `first` on as float32, with zeros beyond d; whole tiles by wide loads."""
    place = first + tl.arange(0, TILE)
    piece = tl.load(x + place) if first + TILE <= d else tl.load(x + place, mask=place < d, other=0.0)
    return piece.to(tl.float32)


@triton.jit
def fetched(x: tl.tensor, place: tl.tensor, fits: tl.tensor, d: int, whole: tl.tensor) -> tl.tensor:
    """Return the entries at places that fit and are below d, and zeros: by wide loads, if `whole` says that all are."""
    return tl.load(x + place, mask=fits, other=0) if whole else tl.load(x + place, mask=fits & (place < d), other=0)


@triton.jit
def put(x: tl.tensor, place: tl.tensor, value: tl.tensor, fits: tl.tensor, d: int, whole: tl.tensor) -> None:
    """Write to the places that `fetched` reads."""
    if whole:
        tl.store(x + place, value, mask=fits)
    else:
        tl.store(x + place, value, mask=fits & (place < d))


def rows_of(block: int) -> tuple[int, int, int]:
    """Return how many blocks a program holds, what a block is padded to, and the warps for them."""
    width = triton.next_power_of_2(block)
    rows = max(1, TILE // width)
    return rows, width, 8 if rows * width >= TILE else 4


def on(x: Tensor) -> torch.cuda.device_of:
    """Make a tensor's GPU the one that kernels are launched on."""
    return torch.cuda.device_of(x)
