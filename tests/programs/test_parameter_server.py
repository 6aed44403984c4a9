from __future__ import annotations

import torch

from quorate.optimizer import Optimizer
from quorate.programs.parameter_server import parameter_server
from quorate.programs.synchronous_sgd import synchronous_sgd
from tests.programs.test_laws import Memory
from tests.tiny import train, training

ADAM = Optimizer("adam", {"lr": 0.01})


def test_ends_where_synchronous_sgd_ends():
    for size in (1, 2, 5):
        server, peers = (
            train(program, training(size=size, unequal=True), optimizer=ADAM, steps=6, batch=4)[0]
            for program in (parameter_server, synchronous_sgd)
        )
        torch.testing.assert_close(server[0], peers[0])


def test_all_messages_pass_the_server():
    made = training(size=4)
    _, trace = train(parameter_server, made, optimizer=ADAM, steps=6, batch=4)
    said = [6 * 4 * made.layout.numel, 6]
    assert trace.links == {pair: said for rank in (1, 2, 3) for pair in ((0, rank), (rank, 0))}
    assert trace.ring == [0, 0]


def test_only_the_server_holds_the_optimizer_s_state():
    memory = Memory()
    train(parameter_server, training(size=3), optimizer=ADAM, steps=2, batch=4, simulator={"recorder": memory})
    assert {key.split(".")[0] for key in memory.kept[0, 2][1]} == {"optimizer"}
    assert memory.kept[1, 2][1] == memory.kept[2, 2][1] == {}
