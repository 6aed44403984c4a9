"""What wrong workers answer, and a meeting of all that a code makes of gradients."""

from __future__ import annotations

import torch

from tests.tiny import randn

KINDS = ("reversed", "constant", "small", "huge", "mixed", "agreed", "zero", "nan", "infinity", "one number", "silent")


def gradients(n, d, seed, dtype=torch.float32):
    """Return gradients (n, d) of n batches: a common part, and noise."""
    return (0.5 * randn(d, seed=seed) + randn(n, d, seed=seed + 1)).to(dtype)


def said(code, batches):
    """Return what honest workers answer; `batches` (n, d) are the batches' gradients."""
    n = len(batches)
    return [code.encode([batches[batch] for batch in code.batches(n, rank)], n, rank) for rank in range(n)]


def lie(kind, honest, place, seed):
    """Return what the liar at a place among the liars answers instead of an honest answer."""
    noise = randn(*honest.shape, seed=seed + 7 * place).to(honest.dtype)
    return {
        "reversed": -100 * honest,
        "constant": torch.full_like(honest, -100),
        "small": honest + 1e-2 * noise,
        "huge": 1e30 * noise,
        "mixed": honest + (1e3 if place == 0 else 1e-2) * noise,
        "agreed": honest + 1,
        "zero": torch.zeros_like(honest),
        "nan": honest * torch.nan,
        "infinity": torch.full_like(honest, torch.inf),
        "one number": honest.clone().index_fill_(0, torch.tensor([place % len(honest)]), 3.0),
        "silent": None,
    }[kind]


def told(honest, liars, kind, seed):
    """Return all answers, of which the liars' are lies."""
    answers = list(honest)
    for place, rank in enumerate(liars):
        answers[rank] = lie(kind, honest[rank], place, seed)
    return answers


def far(mean, batches):
    """Return the error of a mean (d,) relative to that of gradients (n, d)."""
    exact = batches.double().mean(0)
    return float((mean.double() - exact).norm() / exact.norm())
