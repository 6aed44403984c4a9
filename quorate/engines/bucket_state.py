"""What a codec remembers of a bucket, by the names of its parameters, so that it can go to buckets cut otherwise.

Tensors with one entry per entry of the bucket are split by parameter; others, such as the factors that a power
iteration starts from, are kept for a bucket of the same parameters, and forgotten by another one.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from quorate.codecs import State
from quorate.errors import QuorateError
from quorate.flat import Layout
from quorate.trees import leaves


def split(state: State, layout: Layout) -> dict[str, Tensor]:
    """Return copies of what is remembered of a bucket: `residual/NAME` of a parameter's shape, and so on."""
    pieces: dict[str, Tensor] = {}
    for path, tensor in leaves(state):
        if tensor.shape == (layout.numel,):
            pieces |= {f"{path}/{name}": view.clone() for name, view in layout.views(tensor).items()}
        else:
            pieces[_of_all(path, layout)] = tensor.clone()
    return pieces


def join(state: State, layout: Layout, pieces: Mapping[str, Tensor], *, complete: bool = False) -> State:
    """Put what is remembered into a bucket's fresh state, in place; other pieces are left out.

    Args:
        complete: of every parameter, all that the state holds must be there.

    Raises:
        QuorateError: if a piece is of another shape, or missing.
    """
    for path, tensor in leaves(state):
        if tensor.shape == (layout.numel,):
            for name, view in layout.views(tensor).items():
                piece = pieces.get(f"{path}/{name}")
                if piece is not None and piece.shape == view.shape:
                    view.copy_(piece)
                elif piece is not None or complete:
                    found = "nothing" if piece is None else f"shape {list(piece.shape)}"
                    raise QuorateError(
                        f"`{path}/{name}` should have the shape {list(view.shape)}, but the state has {found}",
                        "load what was saved with the same model and the same codecs",
                    )
        elif (whole := pieces.get(_of_all(path, layout))) is not None and whole.shape == tensor.shape:
            tensor.copy_(whole)
    return state


def _of_all(path: str, layout: Layout) -> str:
    return f"{path}/{layout.places[0][0]}..{layout.places[-1][0]}"
