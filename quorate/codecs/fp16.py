"""Half precision: every entry in 16 bits, summed in half precision on its way.

Source: IEEE 754-2008, binary16. Exact to 11 significant bits, a share of 2**-22 of the squared norm, for entries from
6.1e-5 to 65,504 over the number of workers; larger ones are cut off, and those below 3e-8 vanish.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from quorate.codecs._cast import Cast


@dataclass(frozen=True)
class Fp16(Cast):
    """Round to float16; never to infinity."""

    dtype: ClassVar[torch.dtype] = torch.float16
