"""What a codec's sparse messages hold, as far as that is known before any is made."""

from __future__ import annotations

import torch
from torch import Tensor

from quorate import index_coding
from quorate.codecs import Codec
from quorate.codecs._sparsifier import Sparsifier
from quorate.codecs._sparsifier import count as chosen
from quorate.codecs.chain import Chain
from quorate.codecs.error_feedback import ErrorFeedback
from quorate.sparse_collectives import Load
from quorate.wire import size_in_bytes

_ROWS = 4  # bytes that say how many rows a head has, in a chain


def parts_of(codec: Codec) -> tuple[Codec, ...]:
    """Return what a codec is made of, without the error feedback around it."""
    inner = codec.codec if isinstance(codec, ErrorFeedback) else codec
    return inner.parts if isinstance(inner, Chain) else (inner,)


def says_entries(codec: Codec) -> bool:
    """Return whether its messages say some entries and where they are: whether it begins with a sparsifier."""
    return bool(parts_of(codec)) and isinstance(parts_of(codec)[0], Sparsifier)


def load_of(codec: Codec, like: Tensor) -> Load:
    """Return what a meeting of a codec that says entries has to carry, for updates like this one, of shape (d,).

    If messages differ in length, a sparsifier is taken to choose as many entries as its ratio says; a warm-up is over.
    """
    first, *rest = parts_of(codec)
    assert isinstance(first, Sparsifier)
    meta, width = like.to("meta"), like.element_size()
    if first.exact:
        emitted = (first if not rest else Chain((first, *rest))).emits(meta)
        return Load(len(like), width, first.at_most(len(like)), size_in_bytes(emitted))
    ratio = getattr(first, "ratio", None)
    count = first.at_most(len(like)) if ratio is None else chosen(ratio, len(like))
    values = Chain(tuple(rest)).emits(torch.empty(count, dtype=like.dtype, device="meta"))
    said = size_in_bytes(values) + index_coding.size(count, len(like)) + (_ROWS if rest else 0)
    return Load(len(like), width, count, said)
