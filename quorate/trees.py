"""Nested dictionaries of tensors: the form in which programs, optimizers and codecs hold their state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Union

from torch import Tensor

Tree = Mapping[str, Union[Tensor, "Tree"]]
"""Names to tensors or further trees; what a checkpoint can hold."""


def leaves(tree: Tree, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield (dotted name, tensor) in sorted order of names at every level."""
    for name in sorted(tree):
        node = tree[name]
        if isinstance(node, Tensor):
            yield prefix + name, node
        else:
            yield from leaves(node, f"{prefix}{name}.")


def flatten(tree: Tree) -> dict[str, Tensor]:
    """Return dotted names to tensors."""
    return dict(leaves(tree))


def nest(flat: Mapping[str, Tensor]) -> dict[str, Tensor | Tree]:
    """Invert `flatten`; an empty branch is lost, which no reader of state may depend on."""
    tree: dict[str, Tensor | Tree] = {}
    for dotted, tensor in flat.items():
        *branches, name = dotted.split(".")
        branch = tree
        for part in branches:
            branch = branch.setdefault(part, {})  # type: ignore[assignment]
        branch[name] = tensor
    return tree


def map_tree(function: Callable[[Tensor], Tensor], tree: Tree) -> dict[str, Tensor | Tree]:
    """Apply a function to every tensor."""
    return {
        name: function(node) if isinstance(node, Tensor) else map_tree(function, node) for name, node in tree.items()
    }


def branch(tree: Tree, name: str) -> Tree:
    """Return a tree's branch of that name; {} if there is none, for instance because it was empty when saved."""
    found = tree.get(name, {})
    if isinstance(found, Tensor):
        raise TypeError(f"{name} is a tensor, not a branch")
    return found


def leaf(tree: Tree, name: str) -> Tensor:
    """Return a tree's tensor of that name."""
    found = tree[name]
    if not isinstance(found, Tensor):
        raise TypeError(f"{name} is a branch, not a tensor")
    return found
