"""The codecs that benchmarks compare, by the names that recipes call them."""

from __future__ import annotations

import importlib

from quorate import parts
from quorate.codecs import Codec
from quorate.codecs.chain import Chain
from quorate.codecs.error_feedback import ErrorFeedback, sparsifier_of
from quorate.errors import RecipeError
from quorate.exchange import Meeting

RATIO = 0.001
RECOMMENDED = ("fp16", "int8", "sampled_k", "gaussian_k", "power_sgd")
_NOT_ALONE = ("adaptive", "chain", "error_feedback")
_NO_MEMORY = ("bf16", "fp16", "identity")  # they lose little enough without error feedback


def names() -> list[str]:
    """Return all codecs that say something by themselves."""
    return [name for name in parts.names("codec") if name not in _NOT_ALONE]


def build(name: str, *, ratio: float = RATIO, warm_up: int = 0, momentum: float = 0.0) -> Codec:
    """Make a codec as one would use it: a biased one, unless it has a memory of its own, in error feedback.

    Args:
        name: of a codec, or of several joined by "+"; after a sparsifier's, its ratio: "sampled_k 0.01+int8".
        ratio: k / d of sparsifiers whose name gives none.
        warm_up: steps; of sparsifiers in error feedback.
        momentum: of the momentum correction; of sparsifiers in error feedback.

    Raises:
        RecipeError: if there is no such codec.
    """
    made = [_one(each, ratio) for each in name.split("+")]
    codec = made[0] if len(made) == 1 else Chain(tuple(made))
    if codec.unbiased or isinstance(codec, Meeting) or name in _NO_MEMORY:
        return codec
    sparse = sparsifier_of(codec)
    return ErrorFeedback(
        codec,
        momentum=momentum if sparse is not None else 0.0,
        warm_up=warm_up if hasattr(sparse, "ratio") else 0,
    )


def _one(name: str, ratio: float) -> Codec:
    name, *given = name.split()
    ratio = float(given[0]) if given else ratio
    part = parts.find("codec", name)
    table = {"name": name} | ({"ratio": ratio} if "ratio" in parts.settings(part) else {})
    try:
        codec: Codec = parts.build("codec", table)
    except RecipeError:
        examples = getattr(importlib.import_module(f"quorate.codecs.{name}"), "EXAMPLES", ())
        if not examples:
            raise
        codec = examples[0]
    return codec
