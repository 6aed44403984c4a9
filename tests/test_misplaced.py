from __future__ import annotations

from functools import partial

import pytest

from tests.commands import refusal, write_recipe

SGD = {"name": "sgd", "lr": 0.2}
SERVER = {"name": "parameter_server", "steps": 20}


@pytest.fixture
def refused(monkeypatch, capsys):
    """Run a command that must be refused; return what it wrote to standard error."""
    return partial(refusal, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"program": {"name": "synchronous_sgd", "steps": 20, "staleness": 3}},
            "program `synchronous_sgd` has no `staleness`: in an all-reduce, or a mean over neighbours, all meet in the"
            ' same step; only servers can answer some earlier\nhint: [program]\nname = "parameter_server"',
        ),
        (
            {"program": {"name": "gossip", "steps": 20, "servers": 2}},
            "program `gossip` has no `servers`: its workers meet without a server\nhint: [program]\nname ="
            ' "parameter_server"',
        ),
        (
            {"program": {"name": "local_sgd", "steps": 20, "tau": 2}},
            "program `local_sgd` has no `tau`: after how many steps to meet is said by the period\nhint: [period]\n"
            'name = "every"\ntau = 8',
        ),
        (
            {"program": SERVER | {"servers": 8, "colocated": False}},
            "8 servers of 8 ranks leave no rank to train\nhint: servers = 2, or colocated = true for servers that train"
            " as well",
        ),
        (
            {"program": SERVER, "processes": {"device": "cuda"}},
            "`parameter_server` answers whoever comes first, over connections of two, which NCCL does not have; they go"
            ' by gloo, with tensors on the CPU\nhint: device = "cpu" in [processes]',
        ),
        (
            {"program": SERVER | {"staleness": -1}},
            "[program] `staleness`: input should be greater than or equal to 0, got -1\nhint: staleness = 0",
        ),
    ],
)
def test_combinations_that_make_no_sense_are_refused(changes, says, refused, tmp_path):
    path = write_recipe(tmp_path, {"optimizer": SGD, "workers": 8} | changes)
    assert refused("check", path) == says


def test_a_setting_of_the_program_s_own_is_not(monkeypatch, tmp_path):
    from tests.commands import call

    path = write_recipe(tmp_path, {"optimizer": SGD, "program": SERVER | {"staleness": 3}})
    assert call(monkeypatch, "check", path) == 0
