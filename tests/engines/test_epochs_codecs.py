"""What codecs remember when the members of a rehearsed run change."""

from __future__ import annotations

import pytest
import torch

from quorate.codecs.error_feedback import ErrorFeedback
from quorate.codecs.top_k import TopK
from quorate.exchange import Exchange
from quorate.programs.synchronous_sgd import synchronous_sgd
from quorate.trees import leaf, map_tree
from tests.engines import test_epochs
from tests.engines.test_epochs import EACH, event, rehearsed
from tests.engines.test_epochs import Memory as Epochs

CODEC = ErrorFeedback(TopK(0.1), momentum=0.5)


class Memory(Epochs):
    """Also keeps copies of what was committed, and gives copies back, as a run's recorder does."""

    def __init__(self):
        super().__init__()
        self.states = {}

    def restore(self, rank, shared, own):
        step, shared, own = super().restore(rank, shared, own)
        return step, shared, map_tree(torch.Tensor.clone, own)

    def commit(self, rank, step, now, loss, shared, own, metrics=None):
        super().commit(rank, step, now, loss, shared, own)
        self.states[len(self.epochs) - 1, rank, step] = map_tree(torch.Tensor.clone, own)["exchange"]


def sparse(node, training, _):
    return synchronous_sgd(node, training, Exchange(CODEC), **EACH)


@pytest.mark.parametrize("paranoid", [False, True])
def test_who_stays_goes_on_with_what_it_had_committed_and_who_joins_with_nothing_to_say(paranoid, monkeypatch):
    """The step under way when a worker crashes has written to the residuals already."""
    monkeypatch.setattr(test_epochs, "Memory", Memory)
    events = event("crash", 0.33, 3), event("join", 1.1, 3)
    found, memory, _, _ = rehearsed(sparse, *events, paranoid=paranoid)
    assert bool(found.isfinite().all())
    left, joined = memory.epochs[1:]
    assert left.members == (0, 1, 2)
    for number, standing, stayed in ((0, left, (0, 1, 2)), (1, joined, (0, 1, 2))):
        assert standing.step > 0
        for rank in stayed:
            for kind in ("residual", "momentum"):
                held = leaf(standing.kept[rank].own["exchange"], kind)
                assert torch.equal(held, leaf(memory.states[number, rank, standing.step], kind))
                assert held.any()
    assert not leaf(joined.kept[3].own["exchange"], "residual").any()
