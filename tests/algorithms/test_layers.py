"""Which layers are personal: what `fed_per` and `fed_rep` share."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from quorate.algorithms._layers import put, taken
from quorate.algorithms.fed_per import FedPer
from quorate.errors import RecipeError
from quorate.flat import Layout
from tests.tiny import randn

NET = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 3), nn.Linear(3, 1))  # 9, 12 and 4 parameters
LAYOUT = Layout.of(NET)


@pytest.mark.parametrize(
    ("named", "shared", "personal"),
    [
        (None, [(0, 21)], [(21, 25)]),
        (("3",), [(0, 21)], [(21, 25)]),
        (("0",), [(9, 25)], [(0, 9)]),
        (("2", "3"), [(0, 9)], [(9, 25)]),
        (("0.bias", "3"), [(0, 6), (9, 21)], [(6, 9), (21, 25)]),
    ],
)
def test_layers_are_named_by_prefixes(named, shared, personal):
    found = FedPer(named).places(LAYOUT)
    assert [[(place.start, place.stop) for place in places] for places in found] == [shared, personal]


def test_a_prefix_ends_where_a_name_does():
    layout = Layout.of(nn.Sequential(*(nn.Linear(1, 1) for _ in range(12))))
    assert FedPer(("1",)).places(layout)[1] == (slice(2, 4),)


def test_what_is_taken_can_be_put_back():
    flat = randn(1, 25)[0]
    for named in (None, ("0.bias", "3")):
        shared, personal = FedPer(named).places(LAYOUT)
        again = put(put(torch.zeros(25), shared, taken(flat, shared)), personal, taken(flat, personal))
        assert torch.equal(again, flat)


@pytest.mark.parametrize(
    ("named", "says"),
    [
        (("head",), "the model has no `head`\nhint: known: `0`, `0.bias`"),
        (("3", "2.weigth"), "the model has no `2.weigth`\nhint: did you mean `2.weight`?"),
        (("0", "2", "3"), '(0, 2, 3) are all that the model has, so that nothing is shared\nhint: name = "local_only"'),
    ],
)
def test_names_that_make_no_sense_are_refused(named, says):
    with pytest.raises(RecipeError) as raised:
        FedPer(named).check(None, LAYOUT)
    assert says in str(raised.value)


def test_to_name_none_is_refused():
    with pytest.raises(RecipeError, match=r'names no layer.*\nhint: name = "fed_avg"'):
        FedPer(())
