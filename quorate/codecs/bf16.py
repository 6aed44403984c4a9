"""bfloat16: every entry in 16 bits with float32's range, summed in bfloat16 on its way.

Source: Kalamkar et al., "A study of bfloat16 for deep learning training", 2019, section 2. Exact to 8 significant bits,
a share of 2**-16 of the squared norm; each sum on the way rounds as much again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from quorate.codecs._cast import Cast


@dataclass(frozen=True)
class Bf16(Cast):
    """Round to bfloat16; never to infinity."""

    dtype: ClassVar[torch.dtype] = torch.bfloat16
