"""Is what travels what a codec says that it sends?

Two real ranks exchange an update of 1,002,570 entries, the gradient of an MLP, several times by each codec, on a shaped
network whose switch counts every frame (`--netlab COMMAND`, run as root). Compared are

- the most that the codec declares beforehand (`bytes_said`), and what the engine has counted of rank 0's messages;
- the bytes of rank 0's frames, less those of barriers alone, over what the count becomes with headers: 66 bytes
  (Ethernet, IPv4, TCP with time stamps) for each 1448 of payload begun by a message, and 66 to acknowledge every
  second frame of the peer's.

What is over that are headers and permissions of the engine's and gloo's own. The figure is the ratio, target 1 +- 0.05
where a message is longer than 100 kB; below that, the bytes over it in each message are told. About 3 minutes,
`--quick` one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from typing import Any

import codings
import torch
import torch.distributed as dist
from figures import figure
from labs import NETWORKS, run
from overlap import MODELS
from torch import nn

from quorate.collectives.backend import backend
from quorate.collectives.direct import direct
from quorate.engines.group import group
from quorate.engines.processes import ProcessNode
from quorate.engines.waiting import drive
from quorate.errors import QuorateError
from quorate.exchange import Exchange
from quorate.flat import Layout
from quorate.rand import At, Rand

LAB, NETWORK = "qwire", "100mbit/1ms"
PAYLOAD, HEADERS = 1448, 66  # bytes of a full frame, and of what is around them
LONG = 100_000  # bytes of a message from which 5 % is asked for
SETTLED = 0.3  # seconds after which the last acknowledgement has been sent


def counted(netlab: str) -> int:
    """Return the bytes that rank 0 has put on the wire, when nothing is under way."""
    dist.barrier()
    time.sleep(SETTLED)
    told = 0
    if dist.get_rank() == 0:
        stats = subprocess.run([netlab, "stats", "--lab", LAB], stdout=subprocess.PIPE, check=True).stdout
        told = int(json.loads(stats)[0]["tx_bytes"])
    dist.barrier()
    return told


def gradient() -> tuple[torch.Tensor, Layout]:
    """Return a gradient (d,) on noise, and what its entries are."""
    torch.manual_seed(0)
    model = MODELS["mlp"]()
    nn.functional.cross_entropy(model(torch.randn(32, 784)), torch.randint(10, (32,))).backward()
    return torch.cat([each.grad.reshape(-1) for each in model.parameters()]), Layout.of(model)


def measured(node: ProcessNode, exchange: Exchange, update: torch.Tensor, steps: int, netlab: str) -> dict[str, Any]:
    """Exchange an update several times; return bytes in one step."""
    state = exchange.init(update)

    def once(step: int) -> None:
        nonlocal state
        own = update * (1 + node.rank)
        at = At(step, node.rank, node.size, Rand(0))
        _, state = drive(exchange(node, own, state, at))

    for step in range(2):  # connections come about, and room for messages
        once(step)
    resting = counted(netlab)
    nothing = counted(netlab) - resting
    said, before = node.trace.sent_bytes[node.rank], counted(netlab)
    for step in range(2, 2 + steps):
        once(step)
    wire = counted(netlab) - before - nothing
    return {"said": (node.trace.sent_bytes[node.rank] - said) / steps, "wire": wire / steps}


def worker(steps: int, netlab: str, names: list[str]) -> None:
    """Exchange by all codecs as one of the ranks; rank 0 prints a JSON line for each."""
    torch.set_num_threads(1)
    with group(timeout=120) as node:
        update, layout = gradient()
        for name in names:
            told: dict[str, Any] = {"name": name}
            try:
                exchange = Exchange(codings.build(name)).laid_out(layout)
                told["most"] = exchange.bytes_said(update)
                for way in [backend, direct] if exchange.sums_in_flight else [backend]:
                    by = Exchange(exchange.codec, collective=way).laid_out(layout)
                    told[way.__name__] = measured(node, by, update, steps, netlab)
            except QuorateError as error:
                told["skipped"] = " ".join(str(error).split())[:160]
            if node.rank == 0:
                print(json.dumps(told), flush=True)


def with_headers(payload: float) -> float:
    """Return the bytes of frames for a payload that goes and one as long that comes."""
    frames = -(-payload // PAYLOAD)
    return payload + HEADERS * (frames + frames / 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer steps, recommended codecs only")
    parser.add_argument("--codecs", nargs="+", help="names; default: all")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--netlab", default=shutil.which("netlab"), help="command that lays out network namespaces")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(int(options.worker[0]), options.worker[1], options.worker[2:])
        return
    if not options.netlab:
        sys.exit("error: frames are counted by a shaped network\nhint: --netlab COMMAND")
    steps, known = (2 if options.quick else options.steps), codings.names()
    names = options.codecs or ([each for each in codings.RECOMMENDED if each in known] if options.quick else known)
    words = [steps, options.netlab, *dict.fromkeys(["identity", *names])]
    lines = run(__file__, words, size=2, link=NETWORKS[NETWORK], netlab=options.netlab, lab=LAB)
    print(f"{'codec, collective':28}{'declared':>12}{'counted':>12}{'with headers':>14}{'on the wire':>13}{'ratio':>8}")
    for line in lines:
        if "skipped" in line:
            print(f"{line['name']:28} left out: {line['skipped']}")
        for way in ("backend", "direct"):
            if way not in line:
                continue
            said, wire = line[way]["said"], line[way]["wire"]
            expected = with_headers(said)
            label = f"{line['name']}, {way}" if "direct" in line else line["name"]
            print(f"{label:28}{line['most']:12}{said:12.0f}{expected:14.0f}{wire:13.0f}{wire / expected:8.3f}")
            over = {"bytes_over": round(wire - expected), "counted": said}
            off = abs(wire / expected - 1)
            figure(
                f"bytes on the wire against the count, off by: {label}",
                off,
                0.05 if said > LONG else None,
                at_least=False,
                **over,
            )


if __name__ == "__main__":
    main()
