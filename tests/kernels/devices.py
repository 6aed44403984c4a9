"""Where the kernels are run here, and vectors there."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from quorate import kernels
from tests.tiny import randn

pytest.importorskip("triton", reason="kernels need triton: pip install 'quorate[triton]'")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("kernels need a GPU, or TRITON_INTERPRET=1 from the start", allow_module_level=True)
DEVICE = "cpu" if INTERPRETED else "cuda"

FRAME = 20_000  # more than a program reads
lengths = st.integers(1, 70) | st.sampled_from([2_048, 4_096, 4_999])
dtypes = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])


def kernel(name: str) -> ModuleType:
    """Import kernels, which can't be where triton is not."""
    return importlib.import_module(f"quorate.kernels.{name}")


def drawn(d: int, seed: int, dtype: torch.dtype = torch.float32, offset: int = 0) -> Tensor:
    """Return a vector (d,) with ties and zeros, which starts and ends somewhere in its memory; see `framed`."""
    x = randn(d, seed=seed)
    x[::7] = 0
    x[1::5] = x[1::5].round()
    return framed(x.to(DEVICE, dtype), offset)


def framed(x: Tensor, offset: int = 0) -> Tensor:
    """Return a copy of x (d,), before and after which stand 77s, large among normal numbers."""
    memory = x.new_full((offset + len(x) + FRAME,), 77)
    return memory[offset : offset + len(x)].copy_(x)


def frame_of(x: Tensor) -> Tensor:
    """Return what stands in the memory of a framed vector before and after it."""
    memory = x.as_strided((x.untyped_storage().nbytes() // x.element_size(),), (1,), 0)
    return torch.cat([memory[: x.storage_offset()], memory[x.storage_offset() + len(x) :]])


def use_kernels(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the library run kernels on `DEVICE`; return the lengths it will have run them for."""
    lengths: list[int] = []
    usable = kernels.fitting if INTERPRETED else kernels.usable

    def noted(x: Tensor, block: int = 1) -> bool:
        if usable(x, block):
            lengths.append(len(x))
        return usable(x, block)

    monkeypatch.setattr(kernels, "usable", noted)
    return lengths
