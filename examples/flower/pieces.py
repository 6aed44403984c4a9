"""An aggregator and a codec of Quorate in an app of Flower's: three lines, marked by their numbers."""

from __future__ import annotations

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from quorate.codecs.int8 import Int8
from quorate.flower import mod, strategy

CODEC = Int8()  # 1


def median(updates: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Return the median of each entry of updates (n, d), whatever their weights."""
    return updates.median(dim=0).values


client, server = ClientApp(mods=[mod(CODEC)]), ServerApp()  # 2


@client.train()
def train(message: Message, context: Context) -> Message:
    """Step towards a target of the node's own, in place of a training."""
    parameters = message.content["arrays"].to_torch_state_dict()["x"]
    parameters = parameters.lerp(torch.full((100,), float(context.node_id % 7)), 0.5)
    told = {"arrays": ArrayRecord({"x": parameters}), "metrics": MetricRecord({"num-examples": 10})}
    return Message(RecordDict(told), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run ten rounds."""
    chosen = strategy(median, codec=CODEC)  # 3
    result = chosen.start(grid, ArrayRecord({"x": torch.zeros(100)}), num_rounds=10)
    print(result.arrays.to_torch_state_dict()["x"].mean())
