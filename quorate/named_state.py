"""What codecs remember, as checkpoints hold it: by the names of the parameters that it is about.

A worker's own state has it in the branch `exchange`. A tensor there that has one entry per parameter of the model is
split into the parameters' shapes and names, so that it can be read, and be loaded again, without the flat order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from quorate.flat import Layout
from quorate.trees import Tree, branch, flatten, leaves, map_tree, nest

EXCHANGE = "exchange"
UNSAID = ("residual", "momentum")
"""Names under which codecs keep what this worker alone has still to say."""


def split(own: Tree, layout: Layout) -> Tree:
    """Return a worker's own state with what codecs keep of each entry under the names of the parameters; no copies."""

    def named(tree: Tree) -> Tree:
        return {name: named(each) if not isinstance(each, Tensor) else _split(each) for name, each in tree.items()}

    def _split(tensor: Tensor) -> Tensor | Tree:
        return nest(layout.views(tensor)) if tensor.shape == (layout.numel,) else tensor

    return _with(own, named)


def joined(own: Tree, layout: Layout) -> Tree:
    """Invert `split`, also for a part of the state or one that was not split; what codecs keep is copied."""
    shapes = {name: shape for name, shape, _ in layout.places}

    def flat(tree: Tree) -> Tree:
        return {name: each.clone() if isinstance(each, Tensor) else _join(each) for name, each in tree.items()}

    def _join(tree: Tree) -> Tensor | Tree:
        held = flatten(tree)
        if {name: tensor.shape for name, tensor in held.items()} != shapes:
            return flat(tree)
        return torch.cat([held[name].reshape(-1) for name, _, _ in layout.places])

    return _with(own, flat)


def copied(own: Tree) -> Tree:
    """Copy what codecs keep, which they write to in place, and nothing else of a worker's own state."""
    return _with(own, lambda tree: map_tree(Tensor.clone, tree))


def of_newcomer(own: Tree) -> Tree:
    """Return the state of a worker that begins with another's: what the other has still to say is not said twice."""

    def cleared(tree: Tree) -> Tree:
        return {
            name: cleared(each)
            if not isinstance(each, Tensor)
            else torch.zeros_like(each)
            if name in UNSAID
            else each.clone()
            for name, each in tree.items()
        }

    return _with(own, cleared)


def misfit(given: Tree, held: Tree) -> tuple[str, str | None] | None:
    """Compare the state that a program begins with and one to go on from.

    Returns:
        What differs, in words, and a hint; None if the program can go on from `held`.
    """
    found = dict(leaves(held))
    for name, tensor in leaves(given):
        if name not in found or found[name].shape != tensor.shape or found[name].dtype != tensor.dtype:
            return _differs(name)
    begun = dict(leaves(branch(given, EXCHANGE)))
    for name, _ in leaves(branch(held, EXCHANGE)):
        if EXCHANGE in given and name not in begun:
            return _differs(f"{EXCHANGE}.{name}")
    return None


def _differs(name: str) -> tuple[str, str | None]:
    if name.startswith(f"{EXCHANGE}."):
        return f"it is of other codecs, which remember `{name}`", "leave [[codec]] as it was, or begin a new run"
    return f"`{name}` differs", None


def _with(own: Tree, change: Callable[[Tree], Tree]) -> Tree:
    found = own.get(EXCHANGE)
    return {**own, EXCHANGE: change(found)} if isinstance(found, Mapping) and found else own
