"""All candidates alike: each set of so many is as likely as any other.

Source: McMahan et al., "Communication-efficient learning of deep networks from decentralized data", AISTATS 2017,
algorithm 1 (a random set of m clients).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from quorate.rand import Rand
from quorate.selections import Known


def uniform(candidates: Sequence[int], count: int, rand: Rand, known: Known) -> list[int]:
    """Choose without replacement."""
    order = torch.randperm(len(candidates), generator=rand.generator())[:count].tolist()
    return sorted(candidates[place] for place in order)
