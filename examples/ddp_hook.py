"""Compressed gradients in an existing DistributedDataParallel script: two changed lines.

    torchrun --nproc-per-node 2 examples/ddp_hook.py

Without the two marked lines this is plain PyTorch. Other codecs: "top_k", "gaussian_k", "int8", ... (`quorate list`).
"""

import sys

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn

from quorate import ddp_hook  # 1

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, size = dist.get_rank(), dist.get_world_size()
pixels, labels = load_digits(return_X_y=True)
x, y = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
several = {"bucket_cap_mb": 0.001} if "several" in sys.argv else {}  # buckets; a large model has several anyway
ddp = nn.parallel.DistributedDataParallel(model, **several)
ddp.register_comm_hook(ddp, ddp_hook("power_sgd"))  # 2
optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)

mine = torch.arange(rank, 1500, size)  # this worker's samples; the last 297 are for testing
for step in range(200):
    batch = mine[torch.randint(len(mine), (32,), generator=torch.Generator().manual_seed(step))]
    optimizer.zero_grad()
    nn.functional.cross_entropy(ddp(x[batch]), y[batch]).backward()
    optimizer.step()

accuracy = (model(x[1500:]).argmax(1) == y[1500:]).double().mean()
checksum = sum(float(parameter.detach().double().sum()) for parameter in model.parameters())
print(f"rank {rank}: test accuracy {accuracy:.4f}, parameters add up to {checksum:.12f}")
del ddp
dist.destroy_process_group()
