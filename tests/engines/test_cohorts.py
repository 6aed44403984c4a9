from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from quorate.engines import cohorts_pieces, cohorts_windows
from quorate.engines.cohorts import Cohorts
from quorate.federated.local import LocalWork, Trained, train
from quorate.federated.unfolded import Unfolded
from quorate.gradient import TaskError
from quorate.optimizer import Optimizer
from quorate.rand import Rand
from quorate.tasks import Data, Task
from quorate.training import Training
from tests.tiny import classes, cnn, mlp, randn
from tests.tiny import training as made_ready

SGD = Optimizer("sgd", {"lr": 0.2})


def wide():
    """Build (n, 6) -> (n, 3), with layers that few samples change little."""
    return nn.Sequential(nn.Linear(6, 90), nn.ReLU(), nn.Linear(90, 80, bias=False), nn.Tanh(), nn.Linear(80, 3))


def large():
    """Build (n, 520) -> (n, 3), with a first layer that is worth products of its own."""
    return nn.Sequential(nn.Linear(520, 130), nn.ReLU(), nn.Linear(130, 9), nn.GELU(), nn.Linear(9, 3))


def pooling():
    """Build (n, 2, 9, 9) -> (n, 3)."""
    first = [nn.Conv2d(2, 4, 3, stride=2, bias=False), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(4, 6, (2, 1), groups=2)]
    return nn.Sequential(
        *first, nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(12, 5), nn.Softplus()), nn.Linear(5, 3)
    )


MODELS = {
    "mlp": (mlp, (6,)),
    "linear": (lambda: nn.Linear(6, 3), (6,)),
    "wide": (wide, (6,)),
    "large": (large, (520,)),
    "cnn": (cnn, (1, 6, 6)),
    "pooling": (pooling, (2, 9, 9)),
}


def training(name: str, dtype: torch.dtype = torch.float64, n: int = 60, **more: object) -> Training:
    build, shape = MODELS[name]
    return made_ready(classes(lambda: build().to(dtype), n=n, shape=shape, dtype=dtype, **more))


def planned(made: Training, sizes: list[int], *, batch: object = 4, epochs: int = 1, **more: object) -> list[LocalWork]:
    """Give each client so many samples, some of which others have too."""
    works, start = [], made.initial()
    for client, size in enumerate(sizes):
        generator = Rand(client).generator()
        shard = torch.randperm(len(made.train), generator=generator)[:size]
        orders = tuple(shard[torch.randperm(size, generator=generator)] for _ in range(epochs))
        works.append(LocalWork(start, orders, batch, SGD, made.rand, (client,), **more))  # type: ignore[arg-type]
    return works


def one_by_one(made: Training, works: list[LocalWork]) -> list[Trained]:
    return [train(made.gradient, made.layout, work) for work in works]


def assert_near(got: list[object], wanted: list[Trained], tolerance: float) -> None:
    assert len(got) == len(wanted)
    for each, slow in zip(got, wanted, strict=True):
        assert isinstance(each, Trained)
        assert each.steps == slow.steps
        assert each.loss == pytest.approx(slow.loss, rel=tolerance, abs=tolerance)
        assert (slow.parameters - each.parameters).norm() <= tolerance * slow.parameters.norm()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("sizes", [[12] * 5, [1, 9, 4, 0, 17], [30]])
def test_agrees_with_one_by_one(name, dtype, tolerance, sizes):
    made = training(name, dtype)
    works, together = planned(made, sizes, epochs=2), Cohorts(made.gradient)
    assert_near(together(works), one_by_one(made, works), tolerance)
    assert together.reasons == {}


@given(
    name=st.sampled_from(sorted(MODELS)),
    sizes=st.lists(st.integers(0, 20), min_size=1, max_size=6),
    batch=st.sampled_from([1, 3, 10, "full"]),
    epochs=st.integers(1, 3),
    most=st.sampled_from([None, 0, 1, 4]),
    factor=st.sampled_from([1.0, 0.5]),
    proximal=st.sampled_from([0.0, 0.7]),
    l2=st.sampled_from([0.0, 0.1]),
    decay=st.sampled_from([0.0, 0.1]),
    shifted=st.booleans(),
    anchored=st.booleans(),
    own_start=st.booleans(),
    part=st.sampled_from(["all", "first", "last", "bias"]),
)
@settings(deadline=None, max_examples=60)
def test_agrees_for_any_work(
    name, sizes, batch, epochs, most, factor, proximal, l2, decay, shifted, anchored, own_start, part
):
    made = training(name, l2=l2)
    d, places = made.layout.numel, made.layout.places
    _, shape, offset = {"first": places[0], "bias": places[-1], "last": places[-2]}.get(part, places[0])
    moves = None if part == "all" else (slice(offset, offset + shape.numel()),)
    optimizer = Optimizer("sgd", {"lr": 0.1, "weight_decay": decay})
    works = [
        replace(
            work,
            start=work.start + 0.1 * randn(d, seed=client).double() if own_start else work.start,
            shift=0.1 * randn(d, seed=client + 50).double() if shifted else None,
            anchor=0.1 * randn(d, seed=client + 90).double() if anchored else None,
        )
        for client, work in enumerate(
            planned(made, sizes, batch=batch, epochs=epochs, factor=factor, proximal=proximal, most=most, moves=moves)
        )
    ]
    works = [replace(work, optimizer=optimizer) for work in works]
    together = Cohorts(made.gradient)
    assert_near(together(works), one_by_one(made, works), 1e-10)
    assert together.reasons == {}


def squared(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (output - functional.one_hot(y, 3)).square().mean()


@pytest.mark.parametrize("rows", [4, 9, 30, 200])
@pytest.mark.parametrize("moves", [None, (slice(0, 130 * 520),), (slice(130 * 520, 130 * 521),)])
def test_windows_of_any_length_agree_with_one_by_one(rows, moves, monkeypatch):
    monkeypatch.setattr(cohorts_windows, "_ROWS", rows)
    made = training("large")
    works = planned(made, [57, 60, 3, 22], epochs=8, moves=moves)
    for work, together in zip(works, Cohorts(made.gradient)(works), strict=True):
        alone = train(made.gradient, made.layout, work)
        assert isinstance(together, Trained)
        torch.testing.assert_close(together.parameters, alone.parameters, rtol=0, atol=1e-10)
        assert together.loss == pytest.approx(alone.loss, rel=1e-9)


@pytest.mark.parametrize("name", ["wide", "large", "cnn"])
@pytest.mark.parametrize("loss", [squared, nn.CrossEntropyLoss(label_smoothing=0.1), nn.CrossEntropyLoss()])
def test_takes_any_loss(name, loss):
    made = training(name, loss=loss)
    works, together = planned(made, [5, 8, 3]), Cohorts(made.gradient)
    assert_near(together(works), one_by_one(made, works), 1e-10)
    assert together.reasons == {}


def test_the_same_work_has_the_same_bits_again():
    made = training("large", torch.float32)
    works = planned(made, [20, 7, 20, 13])
    first, again = Cohorts(made.gradient)(works), Cohorts(made.gradient)(works)
    assert all(torch.equal(a.parameters, b.parameters) for a, b in zip(first, again, strict=True))


def test_exact_has_the_bits_of_one_by_one():
    made = training("wide", torch.float32)
    works = planned(made, [12, 9])
    for each, slow in zip(Cohorts(made.gradient, exact=True)(works), one_by_one(made, works), strict=True):
        assert torch.equal(each.parameters, slow.parameters)
        assert each.loss == slow.loss


def test_many_clients_are_taken_in_pieces(monkeypatch):
    made = training("wide")
    works = planned(made, [7, 3, 9, 4, 5, 6, 8])
    monkeypatch.setattr(cohorts_pieces, "_MOST", 3)
    assert_near(Cohorts(made.gradient)(works), one_by_one(made, works), 1e-10)


def test_few_steps_are_not_multiplied_out_and_many_are():
    made = training("wide")
    few, many = (Cohorts(made.gradient)(planned(made, [size, size]))[0] for size in (8, 60))
    assert isinstance(few.parameters, Unfolded)
    assert not isinstance(many.parameters, Unfolded)


@pytest.mark.parametrize("name", ["wide", "large", "cnn"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_one_client_that_fails_harms_no_other(name, bad):
    made = training(name)
    works = planned(made, [12, 9, 12])
    hurt = int(works[1].orders[0][5])
    wanted = one_by_one(made, [works[0], works[2]])
    made.train.x[hurt] = bad
    clean = [hurt not in work.orders[0].tolist() for work in (works[0], works[2])]
    got = Cohorts(made.gradient)(works)
    assert isinstance(got[1], TaskError)
    assert "not finite" in str(got[1])
    for each, slow, fine in zip((got[0], got[2]), wanted, clean, strict=True):
        if fine:
            assert_near([each], [slow], 1e-10)
        else:
            assert isinstance(each, TaskError)
    assert any(clean)


def dropping():
    return nn.Sequential(nn.Linear(6, 9), nn.Dropout(0.5), nn.Linear(9, 3)).double()


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 3)

    def forward(self, x):
        return self.inner(x) * 2


def hooked():
    model = mlp(torch.float64)
    model[0].register_forward_hook(lambda module, given, output: output * 2)
    return model


def picky(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(output, y) * (2 if output.sum().item() > 0 else 1)


@pytest.mark.parametrize(
    ("build", "loss", "optimizer", "because"),
    [
        (mlp, functional.cross_entropy, Optimizer("sgd", {"lr": 0.1, "momentum": 0.9}), "has `momentum`"),
        (mlp, functional.cross_entropy, Optimizer("adam", {"lr": 0.1}), "`adam`, not `sgd`"),
        (dropping, functional.cross_entropy, SGD, "draws random numbers"),
        (Own, functional.cross_entropy, SGD, "no plain sequence of layers"),
        (hooked, functional.cross_entropy, SGD, "no plain sequence of layers"),
        (mlp, picky, SGD, "by hand"),
    ],
)
def test_what_is_done_one_by_one_has_its_bits_and_a_reason(build, loss, optimizer, because):
    made = made_ready(classes(lambda: build().double(), dtype=torch.float64, loss=loss))
    works = [replace(work, optimizer=optimizer) for work in planned(made, [9, 6])]
    together = Cohorts(made.gradient)
    got = together(works)
    (reason,) = together.reasons
    assert because in reason
    for each, slow in zip(got, one_by_one(made, works), strict=True):
        assert torch.equal(each.parameters, slow.parameters)


def test_a_part_of_a_parameter_moves_one_by_one():
    made = training("mlp")
    works, together = planned(made, [9], moves=(slice(2, 5),)), Cohorts(made.gradient)
    assert_near(together(works), one_by_one(made, works), 1e-12)
    assert "a part moves" in next(iter(together.reasons))


def test_labels_out_of_range_are_the_tasks_failure():
    data = Data(randn(20, 6), torch.full((20,), 7))
    made = made_ready(Task(mlp, functional.cross_entropy, data, data))
    for result in Cohorts(made.gradient)(planned(made, [5, 5])):
        assert isinstance(result, TaskError)


def test_no_work_is_no_work():
    assert Cohorts(training("mlp").gradient)([]) == []
