"""Gradients of many replicas of a plain stack of linear layers, written out by hand.

Where all replicas share their parameters, the layers run once over the samples of all; only the gradients of the
weights are products of their own. This is several times faster than `torch.vmap`, which keeps no such structure, and
equal to it up to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import vmap

from quorate.flat import Layout
from quorate.gradient import Objective

ELEMENTWISE = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.ELU, nn.LeakyReLU, nn.Softplus)


def is_stack(objective: Objective, sample: Tensor) -> bool:
    """Return whether a model is a sequence of Linear and elementwise layers, each used once, on vectors.

    Args:
        sample: one sample's input; flattened by the first layer if it is no vector.
    """
    model = objective.model
    layers = list(model) if type(model) is nn.Sequential else [model]
    linear = [layer for layer in layers if type(layer) is nn.Linear]
    return (
        bool(linear)
        and len({id(layer) for layer in linear}) == len(linear)
        and all(type(layer) in (nn.Linear, nn.Flatten, nn.Identity, *ELEMENTWISE) for layer in layers)
        and not any(getattr(layer, "inplace", False) for layer in layers)
        and all((each.start_dim, each.end_dim) == (1, -1) for each in layers if isinstance(each, nn.Flatten))
        and (sample.dim() == 1 or isinstance(layers[0], nn.Flatten))
        and all(each.requires_grad for each in model.parameters())
        and len(list(objective.parameters())) == sum(len(list(layer.parameters())) for layer in linear)
        and not any(is_hooked(module) for module in objective.modules())
    )


def gradients(objective: Objective, layout: Layout, parameters: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Take the gradients of n replicas.

    Args:
        objective: for which `is_stack` holds.
        parameters: (d,), shared by all replicas, or (n, d).
        x: (n, b, ...), the replicas' batches.
        y: (n, b, ...).

    Returns:
        Losses of shape (n,) and gradients of shape (n, d).
    """
    n, b = x.shape[:2]
    shared = parameters.dim() == 1
    rows = parameters.new_empty(n, layout.numel)
    places = {name: (offset, shape) for name, shape, offset in layout.places}

    def part(of: Tensor, name: str) -> Tensor:
        offset, shape = places[name]
        piece = of[..., offset : offset + shape.numel()]
        return piece.view(*of.shape[:-1], *shape)

    model = objective.model
    layers = list(model.named_children()) if isinstance(model, nn.Sequential) else [("", model)]
    names = {index: f"model.{name}." if name else "model." for index, (name, _) in enumerate(layers)}
    h = x.reshape(n, b, -1)
    before: list[Tensor] = []
    with torch.no_grad():
        for index, (_, layer) in enumerate(layers):
            before.append(h)
            if isinstance(layer, nn.Linear):
                weight = part(parameters, f"{names[index]}weight")
                h = (h.reshape(n * b, -1) @ weight.T).view(n, b, -1) if shared else torch.bmm(h, weight.mT)
                if layer.bias is not None:
                    bias = part(parameters, f"{names[index]}bias")
                    h += bias if shared else bias[:, None]
            elif isinstance(layer, ELEMENTWISE):
                h = layer(h)
    outputs = h.requires_grad_()
    losses = vmap(objective.loss)(outputs, y)
    (slope,) = torch.autograd.grad(losses.sum(), outputs)
    with torch.no_grad():
        first = next(index for index, (_, layer) in enumerate(layers) if isinstance(layer, nn.Linear))
        for index in reversed(range(first, len(layers))):
            layer, given = layers[index][1], before[index]
            if isinstance(layer, nn.Linear):
                slope = slope.contiguous()
                torch.bmm(slope.mT, given, out=part(rows, f"{names[index]}weight"))
                if layer.bias is not None:
                    torch.sum(slope, dim=1, out=part(rows, f"{names[index]}bias"))
                if index > first:
                    weight = part(parameters, f"{names[index]}weight")
                    slope = (slope.reshape(n * b, -1) @ weight).view(n, b, -1) if shared else torch.bmm(slope, weight)
            elif isinstance(layer, ELEMENTWISE):
                slope = _backward(layer, given, slope)
        losses = losses.detach()
        if objective.l2:
            losses = losses + objective.l2 / 2 * parameters.square().sum(-1)
            rows += objective.l2 * parameters
    return losses, rows


def is_hooked(module: nn.Module) -> bool:
    """Return whether functions of the user's run before or after a module, which a form by hand would leave out."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks)


def _backward(layer: nn.Module, given: Tensor, slope: Tensor) -> Tensor:
    if isinstance(layer, nn.ReLU):
        return slope.masked_fill_(given <= 0, 0)
    with torch.enable_grad():
        z = given.detach().requires_grad_()
        (before,) = torch.autograd.grad(layer(z), z, slope)
    return before
