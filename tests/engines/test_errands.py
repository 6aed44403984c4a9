from __future__ import annotations

from math import inf

import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.engines.errands import Errand, Phase, loaded, saved
from quorate.engines.presence import Loss
from quorate.federated import Answer, Request
from quorate.trees import flatten, nest
from quorate.wire import Ragged

times = st.floats(0, 1e9) | st.just(inf)
numbers = st.dictionaries(st.sampled_from(["factor", "steps"]), st.floats(-1e9, 1e9))


@given(st.sampled_from(Phase), times, times, numbers, st.booleans(), st.text(max_size=9), st.booleans())
def test_what_is_saved_is_loaded_again(phase, since, due, told, done, why, ragged):
    message = (torch.arange(3.0), torch.tensor([2, 1]))
    said = Ragged(message) if ragged else message
    request = Request(4, {"parameters": (torch.ones(5),)}, told)
    result = ({"codec": {"update": {"residual": torch.ones(2)}}}, Answer(7, 4, {"update": said}, {"loss": 0.5}))
    errand = Errand(7, request, 12, Loss(since, due, why), since, phase, due, 3, result if done else None)
    (found,) = loaded(nest(flatten(saved([errand]))))
    assert (found.client, found.number, found.phase, found.since, found.due, found.order) == (
        7,
        12,
        phase,
        since,
        due,
        3,
    )
    assert found.loss == errand.loss
    assert (found.request.round, found.request.kind, found.request.numbers) == (4, "train", told)
    assert torch.equal(found.request.tensors["parameters"][0], torch.ones(5))
    if not done:
        assert found.result is None
        return
    memory, answer = found.result
    assert flatten(memory).keys() == {"codec.update.residual"}
    assert type(answer.message("update")) is type(said)
    assert all(torch.equal(a, b) for a, b in zip(answer.message("update"), message, strict=True))
    assert answer.numbers == {"loss": 0.5}


def test_errands_of_one_round_share_what_is_broadcast():
    request = Request(1, {"parameters": (torch.ones(1000),)})
    errands = [Errand(client, request, client + 1, Loss(inf, inf, ""), 0.0) for client in range(50)]
    assert sum(tensor.numel() for tensor in flatten(saved(errands)).values()) < 2000
    found = loaded(saved(errands))
    assert all(each.request.tensors is found[0].request.tensors for each in found)
