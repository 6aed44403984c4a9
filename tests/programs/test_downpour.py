from __future__ import annotations

from functools import partial

import pytest
import torch

from quorate.cluster import Cluster
from quorate.errors import RecipeError
from quorate.exchange import Exchange
from quorate.optimizer import Optimizer
from quorate.periods.adaptive import Adaptive
from quorate.periods.every import every
from quorate.plan import plan_of
from quorate.programs.downpour import downpour
from tests.programs.coding import Together
from tests.programs.test_laws import Memory
from tests.tiny import classes, simulate, training

SGD = Optimizer("sgd", {"lr": 0.1})


def test_the_centre_moves_by_what_each_worker_has_moved():
    """Two workers, of which the second is a little slower: they come to the centre in turn."""
    made = training(classes(dtype=torch.float64, model=lambda: torch.nn.Linear(6, 3).double()), 2)
    cluster = Cluster(
        seconds_per_sample=1e-3, latency=1e-9, node=[{"ranks": (1,), "seconds_per_sample": 1.1e-3}], uplink=1e15
    )
    centre, own, fetched = made.initial(), [made.initial()] * 2, [made.initial()] * 2
    for meeting in range(3):
        for rank in range(2):
            for step in (2 * meeting, 2 * meeting + 1):
                own[rank] = own[rank] - 0.1 * made.gradient(own[rank].clone(), made.batch(rank, step, 4))[1]
            centre = centre + own[rank] - fetched[rank]
            own[rank] = fetched[rank] = centre
    memory = Memory()
    memory.saves = lambda step: False
    program = partial(downpour, training=made, exchange=Exchange(), optimizer=SGD, period=partial(every, tau=2))
    ends = simulate(partial(program, steps=6, batch=4), 2, cluster, recorder=memory)
    torch.testing.assert_close(ends[1], centre, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"period": Adaptive()}, "downpour never averages all workers"),
        ({"period": every, "exchange": Exchange(Together())}, 'the program "local_sgd"'),
    ],
)
def test_refuses_what_makes_no_sense(given, says):
    exchange = given.pop("exchange", None)
    with pytest.raises(RecipeError) as error:
        plan_of(partial(downpour, **given), 4, exchange=exchange)
    assert says in str(error.value)
