from __future__ import annotations

import runpy
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("flwr", reason="needs `pip install -e '.[flower]'`, in an environment of its own")

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.codecs.error_feedback import ErrorFeedback
from quorate.codecs.identity import Identity
from quorate.codecs.int8 import Int8
from quorate.codecs.power_sgd import PowerSgd
from quorate.codecs.qsgd import Qsgd
from quorate.codecs.random_k import RandomK
from quorate.codecs.sign import Sign
from quorate.codecs.top_k import TopK
from quorate.errors import QuorateError
from quorate.flower import mod, strategy
from quorate.flower_pieces import Coding, flat, likeness, replaced

SHAPES = {"layer.bias": (3,), "layer.weight": (4, 3), "norm.count": ()}
CODECS = [Identity(), Int8(), Qsgd(), RandomK(0.5), TopK(0.3), ErrorFeedback(TopK(0.3)), ErrorFeedback(Sign())]


def arrays(seed: int, scale: float = 1.0) -> ArrayRecord:
    drawn = np.random.default_rng(seed)
    held = {name: np.array(drawn.normal(size=shape) * scale, np.float32) for name, shape in SHAPES.items()}
    return ArrayRecord({**{name: Array(array) for name, array in held.items()}, "norm.count": Array(np.array(seed))})


def message(node: int, content: RecordDict | None, kind: str = "train") -> SimpleNamespace:
    metadata = SimpleNamespace(src_node_id=node, message_type=kind)
    return SimpleNamespace(
        content=content, metadata=metadata, has_error=lambda: content is None, error=SimpleNamespace(reason="-")
    )


def trained(node: int, seed: int, samples: object = 1) -> SimpleNamespace:
    return message(node, RecordDict({"arrays": arrays(seed), "metrics": MetricRecord({"num-examples": samples})}))


def context(node: int) -> Context:
    return Context(1, node, {}, RecordDict(), {})


def started(aggregator, start: ArrayRecord, **more):
    around = strategy(aggregator, FedAvg(min_available_nodes=1, min_train_nodes=1), **more)
    around._base.configure_train = lambda *_: []
    around.configure_train(1, start, ConfigRecord(), None)
    return around


def middle(updates: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    return updates.median(dim=0).values


@given(st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_arrays_become_a_vector_and_again_arrays(seed):
    one, other = arrays(seed), arrays(seed + 1)
    assert flat(one).shape == (15,)
    back = replaced(other, flat(one))
    assert torch.equal(flat(back), flat(one))
    assert likeness(back) == likeness(one)
    assert int(back["norm.count"].numpy()) == seed + 1


def test_an_aggregator_combines_what_clients_have_come_to():
    start, replies = arrays(0), [trained(node, node) for node in (3, 1, 2)]
    combined, metrics = started(middle, start).aggregate_train(1, replies)
    expected = torch.stack([flat(start) - flat(arrays(node)) for node in (1, 2, 3)]).median(dim=0).values
    torch.testing.assert_close(flat(combined), flat(start) - expected)
    assert metrics is not None
    assert likeness(combined) == likeness(start)


def test_weights_are_the_samples_that_clients_tell():
    from quorate.aggregators.mean import mean

    replies = [trained(1, 1, 30), trained(2, 2, 10)]
    combined, _ = started(mean, arrays(0)).aggregate_train(1, replies)
    expected, _ = FedAvg().aggregate_train(1, [trained(1, 1, 30), trained(2, 2, 10)])
    for name in ("layer.bias", "layer.weight"):
        np.testing.assert_allclose(combined[name].numpy(), expected[name].numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_what_a_mod_has_encoded_a_strategy_decodes(codec):
    """The codec's own laws say how near it comes; here, that both ends agree, and that its state goes on."""
    start, own, clients = arrays(0), {1: context(1), 2: context(2)}, mod(codec, seed=5)
    said = {1: torch.zeros(15), 2: torch.zeros(15)}
    for _ in range(3):
        replies = []
        for node, each in own.items():
            sent = message(node, RecordDict({"arrays": start, "config": ConfigRecord()}))
            replies.append(clients(sent, each, lambda *_, node=node: trained(node, node)))
            assert likeness(replies[-1].content["arrays"]) != likeness(start)
        heard: dict[str, torch.Tensor] = {}
        around = started(
            lambda updates, weights, heard=heard: heard.setdefault("all", updates).mean(dim=0),
            start,
            codec=codec,
            seed=5,
        )
        around.aggregate_train(1, replies)
        for place, node in enumerate((1, 2)):
            said[node] += heard["all"][place]
            if codec == Identity():
                torch.testing.assert_close(heard["all"][place], flat(start) - flat(arrays(node)))
    if isinstance(codec, ErrorFeedback):
        for node, each in own.items():
            residual = torch.from_numpy(np.array(each.state["quorate.codec"]["residual"].numpy()))
            whole = 3 * (flat(start) - flat(arrays(node)))
            torch.testing.assert_close(said[node] + residual, whole, atol=1e-4, rtol=1e-4)
    assert own[1].state["quorate"]["step"] == 3


def test_evaluations_and_failures_pass_a_mod_by():
    sent = RecordDict({"arrays": arrays(0)})
    for kind, answer in (("evaluate", trained(1, 1)), ("train", message(1, None))):
        assert mod(TopK(0.3))(message(1, sent, kind), context(1), lambda *_, answer=answer: answer) is answer


def hostile(what: str) -> SimpleNamespace:
    reply = trained(9, 9)
    if what == "nan":
        reply.content["arrays"]["layer.bias"] = Array(np.full(3, np.nan, np.float32))
    elif what == "shape":
        reply.content["arrays"]["layer.bias"] = Array(np.zeros(4, np.float32))
    elif what == "samples":
        reply = trained(9, 9, float("nan"))
    elif what == "negative":
        reply = trained(9, 9, -3)
    elif what == "nothing":
        reply.content = RecordDict()
    elif what == "none":
        del reply.content["metrics"]
    return reply


@pytest.mark.parametrize("what", ["nan", "shape", "samples", "negative", "nothing", "none"])
@pytest.mark.parametrize("aggregator", [None, middle], ids=["base", "own"])
def test_replies_that_cannot_be_used_are_left_out(what, aggregator):
    good = [trained(1, 1), trained(2, 2)]
    expected, _ = started(aggregator, arrays(0)).aggregate_train(1, good)
    combined, _ = started(aggregator, arrays(0)).aggregate_train(1, [trained(1, 1), trained(2, 2), hostile(what)])
    assert torch.equal(flat(combined), flat(expected))


@pytest.mark.parametrize("spoil", ["tensors", "cut", "header", "plain"])
def test_encoded_updates_that_no_codec_has_said_are_refused(spoil):
    coding, start = Coding(TopK(0.3), 0), arrays(0)
    content = RecordDict({"arrays": arrays(1)})
    if spoil != "plain":
        coding.encode(start, content, RecordDict(), 1)
    if spoil == "tensors":
        wrong = RecordDict({"arrays": ArrayRecord({"a": Array(np.zeros(99, np.float32))})})
        coding.encode(ArrayRecord({"a": Array(np.ones(99, np.float32))}), wrong, RecordDict(), 1)
        content = wrong
    elif spoil == "cut":
        content["arrays"]["quorate.update"] = Array("uint8", (1,), "quorate", b"x")
    elif spoil == "header":
        content["quorate"] = ConfigRecord({"kind": "said", "header": "{}"})
    with pytest.raises(QuorateError):
        coding.decode(start, content, 1)


def test_a_codec_that_needs_all_workers_is_refused_early():
    with pytest.raises(QuorateError, match="meetings of all workers"):
        mod(PowerSgd())
    with pytest.raises(QuorateError, match="meetings of all workers"):
        strategy(partial(middle), codec=PowerSgd())


def test_the_example_learns_through_its_mod_and_strategy(monkeypatch):
    """Rounds of the example without a SuperLink: the median comes to the middle node's target."""
    path = Path(__file__).parents[2] / "examples" / "flower" / "pieces.py"
    example = runpy.run_path(str(path))
    model, nodes = ArrayRecord({"x": Array(np.zeros(100, np.float32))}), {node: context(node) for node in (8, 9, 10)}
    around = started(example["median"], model, codec=example["CODEC"])
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    for round in range(1, 21):
        around.configure_train(round, model, ConfigRecord(), None)
        replies = []
        for node, each in nodes.items():
            sent = Message(RecordDict({"arrays": model}), dst_node_id=node, message_type="train")
            answer = example["client"](sent, each)
            replies.append(message(node, answer.content))
        model, _ = around.aggregate_train(round, replies)
    assert float((flat(model) - 2.0).abs().max()) < 0.1
