"""A process group for a program of one's own, as a context that is always destroyed."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import PrefixStore, Store

from quorate.engines.processes import ProcessNode, join
from quorate.errors import RunError

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def under_torchrun() -> bool:
    """Return whether a launcher has started this process as one of several ranks."""
    return all(name in os.environ for name in _NEEDED)


def torchrun_store(timeout: float) -> tuple[Store, Store]:
    """Connect to the store that torchrun has set up, or set it up on rank 0 if it has not.

    Returns:
        A part that lasts through torchrun's restarts, and one for this attempt only: in a shared one, restarted
        workers would read the addresses of dead ones.
    """
    hosts = os.environ["RANK"] == "0" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store = TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=hosts,
        timeout=datetime.timedelta(seconds=timeout),
        wait_for_workers=False,
    )
    lasting = PrefixStore(f"quorate/{os.environ.get('TORCHELASTIC_RUN_ID', '')}", store)
    return lasting, PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", lasting)


@contextmanager
def group(device: str = "cpu", timeout: float = 300.0) -> Iterator[ProcessNode]:
    """Join the workers that torchrun has started, and leave them in order.

    Args:
        device: "cpu" (gloo) or "cuda" (NCCL).
        timeout: seconds after which a collective that some rank has not joined is given up.

    Yields:
        This process's node.

    Raises:
        RunError: if this process was not started by torchrun, or not all ranks come.
    """
    if not under_torchrun():
        missing = [name for name in _NEEDED if name not in os.environ]
        raise RunError(
            f"this process is not one of several workers: {', '.join(missing)} not set",
            "torchrun --nproc-per-node 2 your_script.py",
        )
    _, store = torchrun_store(timeout)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    board = join(rank, size, store, os.environ["MASTER_ADDR"], device, timeout)
    try:
        node = ProcessNode(store=board, device="cpu" if device == "cpu" else f"cuda:{os.environ.get('LOCAL_RANK', 0)}")
        yield node
        node.close()
    finally:
        dist.destroy_process_group()
