"""Your own training loop on several processes, in one of Quorate's programs: here local SGD with a period of 4.

    torchrun --nproc-per-node 2 examples/own_loop.py

The four lines that are not plain PyTorch are marked; without them this is an ordinary script for one process.
"""

from __future__ import annotations

from functools import partial

import torch
from sklearn.datasets import load_digits
from torch import nn

from quorate.engines.group import group  # 1
from quorate.loop import Driven
from quorate.periods.every import every
from quorate.programs.local_sgd import local_sgd

torch.set_num_threads(1)
pixels, labels = load_digits(return_X_y=True)
x, y = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
program = partial(local_sgd, period=partial(every, tau=4))  # 2

with group() as node, Driven(model, optimizer, program, node):  # 3
    mine = torch.arange(node.rank, 1500, node.size)  # 4: this worker's samples; the last 297 are for testing
    for step in range(200):
        batch = mine[torch.randint(len(mine), (32,), generator=torch.Generator().manual_seed(step))]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()

accuracy = (model(x[1500:]).argmax(1) == y[1500:]).double().mean()
checksum = sum(float(parameter.detach().double().sum()) for parameter in model.parameters())
print(f"rank {node.rank}: test accuracy {accuracy:.4f}, parameters add up to {checksum:.12f}")
