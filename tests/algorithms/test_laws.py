"""Laws of every algorithm."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from quorate import parts
from quorate.algorithms import Combined
from quorate.codecs.error_feedback import ErrorFeedback
from quorate.codecs.top_k import TopK
from quorate.engines.cohorts import Cohorts
from quorate.exchange import Exchange
from quorate.federated.client import Asked
from quorate.trees import branch, flatten, leaves, map_tree, nest
from tests.algorithms.laws import NAMES, law
from tests.algorithms.world import Federation
from tests.tiny import classes, mlp, training

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def federation(algorithm, dtype=torch.float32, *, size: int = 3, batch=4, **settings) -> Federation:
    task = classes(lambda: mlp(dtype), dtype=dtype)
    return Federation(algorithm, training(task, size, unequal=True), batch=batch, **settings)


def begun(algorithm, dtype=torch.float32, **settings) -> Federation:
    """After a round in which not all have taken part."""
    made = federation(algorithm, dtype, **settings)
    made.round([0, 2])
    return made


def same(one, other) -> bool:
    """Whether two trees hold the same tensors; NaN, by which a server's state says "not known", is like NaN."""
    a, b = flatten(one), flatten(other)
    return a.keys() == b.keys() and all(_equal(a[name], b[name]) for name in a)


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    alike = (one.shape, one.dtype) == (other.shape, other.dtype)
    return alike and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def copied(tree):
    return map_tree(torch.Tensor.clone, tree)


def said(answer) -> dict:
    return {name: torch.cat([part.reshape(-1) for part in message]) for name, message in answer.messages.items()}


def test_the_folder_is_found():
    assert {"fed_avg", "scaffold", "ditto", "local_only"} <= set(NAMES)


@law
def test_it_is_a_frozen_value_that_a_recipe_can_state(algorithm):
    assert parts.name_of(algorithm) in NAMES
    assert replace(algorithm) == algorithm
    assert hash(algorithm) == hash(replace(algorithm))
    with pytest.raises(FrozenInstanceError):
        algorithm.anything = 1
    table = {field.name: getattr(algorithm, field.name) for field in fields(algorithm)}
    stated = {name: list(value) if isinstance(value, tuple) else value for name, value in table.items()}
    stated = {name: value for name, value in stated.items() if value is not None}
    assert parts.build("algorithm", {"name": parts.name_of(algorithm)} | stated) == algorithm


@law
@DTYPES
def test_updates_and_numbers_are_as_declared(algorithm, dtype):
    made = begun(algorithm, dtype)
    declared = algorithm.says(made.parameters, made.made.layout)
    for _, answer in made.answers(made.asked([0, 1])):
        assert answer.messages.keys() == declared.keys()
        for name, like in declared.items():
            (update,) = answer.message(name)
            assert (update.shape, update.dtype) == (like.shape, like.dtype)
        assert set(algorithm.tells()) <= answer.numbers.keys()
        assert made.model.flaw(answer) is None
    assert made.parameters.dtype == dtype
    for client in range(3):
        assert (made.personal(client).shape, made.personal(client).dtype) == (made.parameters.shape, dtype)


@law
def test_nothing_that_a_client_is_given_is_written_to_or_kept(algorithm):
    made = begun(algorithm)
    asked = made.asked([0, 1])
    givens = [copied(each.memory) for each in asked]
    sent = {name: [part.clone() for part in message] for name, message in asked[0].request.tensors.items()}
    initial, shards = made.made.initial().clone(), [shard.clone() for shard in made.made.shards]
    answers = made.answers(asked)
    assert all(same(before, each.memory) for before, each in zip(givens, asked, strict=True))
    for name, message in asked[0].request.tensors.items():
        assert all(torch.equal(a, b) for a, b in zip(sent[name], message, strict=True))
    assert torch.equal(made.made.initial(), initial)
    assert all(torch.equal(a, b) for a, b in zip(shards, made.made.shards, strict=True))
    shared = [part for message in asked[0].request.tensors.values() for part in message]
    shared += [
        made.made.initial(),
        *(part for _, answer in answers for each in answer.messages.values() for part in each),
    ]
    places = {tensor.untyped_storage().data_ptr() for tensor in shared if tensor.numel()}
    kept = [tensor for memory, _ in answers for _, tensor in leaves(memory) if tensor.numel()]
    assert not places & {tensor.untyped_storage().data_ptr() for tensor in kept}
    assert len({tensor.untyped_storage().data_ptr() for tensor in kept}) == len(kept)


@law
def test_nothing_that_the_server_is_given_is_written_to(algorithm):
    made = begun(algorithm)
    answers = [answer for _, answer in made.answers(made.asked([0, 1]))]
    parameters, state = made.parameters.clone(), copied(branch(made.model.state(), "algorithm"))
    updates = {name: like.clone() for name, like in algorithm.says(parameters, made.made.layout).items()}
    combined = Combined(updates, [0.5, 0.5], [answer.numbers for answer in answers], 3)
    before = parameters.clone(), copied(state), copied(updates)
    slope, after = algorithm.server(parameters, state, combined, made.made.layout)
    assert torch.equal(before[0], parameters)
    assert same(before[1], state)
    assert same(before[2], updates)
    assert (slope.shape, slope.dtype) == (parameters.shape, parameters.dtype)
    shapes = [{name: (each.shape, each.dtype) for name, each in leaves(tree)} for tree in (state, after)]
    assert shapes[0] == shapes[1]


@law
def test_memory_survives_a_file(algorithm):
    made = begun(algorithm, exchange=Exchange(ErrorFeedback(TopK(0.2))))
    asked = made.asked([0, 1, 2])
    again = [each._replace(memory=nest(load(save(flatten(each.memory))))) for each in asked]
    for (memory, answer), (other, repeated) in zip(made.answers(asked), made.answers(again), strict=True):
        assert same(memory, other)
        assert same(said(answer), said(repeated))
        assert answer.numbers == repeated.numbers


@law
def test_the_servers_state_survives_a_file(algorithm):
    made, other = begun(algorithm), federation(algorithm)
    other.model.load(nest(load(save({name: part.clone() for name, part in leaves(made.model.state())}))))
    other.memories, other.rounds = dict(made.memories), made.rounds
    made.round([1, 2])
    other.round([1, 2])
    assert same(made.model.state(), other.model.state())


@law
def test_a_reply_that_was_not_accepted_has_not_happened(algorithm):
    made = begun(algorithm)
    asked = made.asked([0, 1])
    first, second = made.answers(asked), made.answers(asked)
    for (memory, answer), (other, repeated) in zip(first, second, strict=True):
        assert same(memory, other)
        assert same(said(answer), said(repeated))
    untouched = begun(algorithm)
    assert same(made.model.state(), untouched.model.state())
    made.round()
    untouched.round()
    assert torch.equal(made.parameters, untouched.parameters)
    assert all(same(made.memories[client], untouched.memories[client]) for client in range(3))


@law
def test_clients_do_not_depend_on_whom_else_is_asked_or_when(algorithm):
    made = begun(algorithm)
    together = {answer.client: (memory, answer) for memory, answer in made.answers(made.asked([0, 1, 2]))}
    for client in (2, 0, 1):
        ((memory, answer),) = made.answers(made.asked([client]))
        assert same(memory, together[client][0])
        assert same(said(answer), said(together[client][1]))
        assert answer.numbers == together[client][1].numbers


@law
def test_a_client_that_has_time_for_few_steps_or_none_stays_finite(algorithm):
    made = begun(algorithm)
    for steps in (0, 1, 2):
        before = made.parameters.clone()
        for answer in made.round(steps=dict.fromkeys(range(3), steps)):
            assert answer.numbers["steps"] <= steps + 1  # two works round up
            if steps == 0:
                assert not said(answer).get("update", torch.zeros(1)).any()
        assert made.parameters.isfinite().all()
        assert all(tensor.isfinite().all() for memory in made.memories.values() for _, tensor in leaves(memory))
        if steps == 0 and not branch(made.model.state(), "algorithm"):
            assert torch.equal(made.parameters, before)


@law
def test_chance_is_a_clients_and_a_rounds_own_and_global_chance_is_left_alone(algorithm):
    made, before = begun(algorithm), torch.get_rng_state()
    asked = made.asked([0])[0]
    ((_, answer),) = made.answers([asked])
    later = Asked(asked.client, asked.memory, replace(asked.request, round=asked.request.round + 1), asked.shard)
    ((memory, other),) = made.answers([later])
    assert torch.equal(torch.get_rng_state(), before)
    assert answer.numbers["loss"] != other.numbers["loss"] or parts.name_of(algorithm) == "fed_sgd"
    assert memory is not asked.memory


@law
def test_it_learns(algorithm):
    """Each client's own loss, by the parameters that it uses, falls."""
    made = federation(algorithm, lr=0.3)
    losses = []
    for _ in range(2):
        losses.append(_loss(made))
        for _ in range(15):
            made.round()
    assert losses[1] < losses[0] - 0.02


def _loss(made: Federation) -> float:
    data, total = made.made.train, 0.0
    for client, shard in enumerate(made.made.shards):
        outputs = made.made.outputs(made.personal(client), data.x[shard])
        total += float(made.made.task.loss(outputs, data.y[shard])) * len(shard) / len(data)
    return total


@law
def test_a_broadcast_is_what_clients_expect(algorithm):
    made = begun(algorithm)
    expected = made.client.likes()
    sent = algorithm.broadcast(made.parameters, branch(made.model.state(), "algorithm"), made.made.layout)
    assert {name: (each.shape, each.dtype) for name, each in sent.items()} == {
        name: (each.shape, each.dtype) for name, each in expected.items()
    }


@law
def test_a_clients_own_parameters_are_found_without_writing_to_anything(algorithm):
    made = begun(algorithm)
    layout, memory = made.made.layout, branch(made.memories[0], "algorithm")
    parameters, before = made.parameters + 1, copied(memory)
    given = parameters.clone()
    found = algorithm.personal(parameters, memory, layout)
    assert torch.equal(parameters, given)
    assert same(memory, before)
    assert torch.equal(algorithm.personal(parameters, {}, layout), given)
    assert torch.equal(algorithm.personal(parameters, memory, layout), found)


@law
def test_a_cohort_that_is_trained_together_comes_to_the_same(algorithm):
    task = classes(lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double(), dtype=torch.float64)
    made = Federation(algorithm, training(task, 4, unequal=True), batch=4)
    made.round([0, 1])
    asked, cohorts = made.asked([0, 1, 3]), Cohorts(made.made.gradient)
    together = made.client.answers(asked, cohorts)
    assert not cohorts.reasons
    for (memory, answer), (other, alike) in zip(made.answers(asked), together, strict=True):
        for one, another in ((memory, other), (said(answer), said(alike))):
            torch.testing.assert_close(flatten(one), flatten(another), rtol=0, atol=1e-12)
