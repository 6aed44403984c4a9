"""What do compressed messages bring on slow links, against torch's DDP, its hooks and post-local SGD?

Real processes, one thread each, train an MLP of 1,002,570 parameters (MNIST) or a CNN of 290,922 (CIFAR-10), batches of
32, SGD with momentum, on loopback and on shaped networks (`--netlab COMMAND`, run as root). Two parts:

- speed: all ways take blocks of steps in turn, in the same processes; the figures are medians over blocks, ratios are
  those of blocks of one round. "link allows" is the link's rate over the bytes that a rank was seen to put on the wire
  in a step, headers included, with no latency and no computing; the way "alone" exchanges nothing.
- training: every way takes equally many steps, on the same batches, from the same parameters; the learning rate falls
  to a tenth in the last quarter. What is learned in a step does not depend on the link, so this is done on loopback,
  and the seconds to a fixed loss (of held-out samples, looked at every few steps) are those steps over the steps per
  second on each link. `adaptive`, whose choice depends on the link, is trained there.

Without --data (or QUORATE_DATA) classes of noise stand for the data sets. Everything takes hours; --networks, --models,
--ranks, --methods and --only choose pieces, --quick is one piece of a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import ad_psgd
import codings
import torch
import torch.distributed as dist
from contenders import PEERS, Contender, Samples, make, samples
from figures import figure, quartiles
from labs import NETWORKS, run, sent_on_the_wire

from quorate.candidates import LADDER
from quorate.engines.group import group
from quorate.engines.processes import ProcessNode
from quorate.errors import QuorateError

OURS = (*LADDER, "fp16", "gaussian_k", "adaptive", "local_sgd", "local_sgd adaptive", ad_psgd.NAME)
LOSS = {"mlp": 0.25, "cnn": 1.5}  # of held-out samples of MNIST and CIFAR-10
LOSS_OF_NOISE = {"mlp": 0.25, "cnn": 0.25}
LOOK, HELD_OUT = 8, 1_000
WARM_UP = 4
SLOW = 1.0  # seconds of a step from which none is thrown away, and a block may be one step
TARGETS = {"100mbit/1ms": 20.0, "10mbit/10ms": 60.0}


def block(made: Contender, taken: Samples, start: int, steps: int) -> dict[str, float]:
    """Take steps; return this rank's seconds, CPU seconds and bytes on the wire (NaN on loopback) of one."""
    batches = [taken.batch(step) for step in range(start, start + min(steps, 64))]
    dist.barrier()
    wire, cpu, began = sent_on_the_wire(), time.process_time(), time.perf_counter()
    for step in range(steps):
        made.step(*batches[step % len(batches)])
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    dist.barrier()
    sent = sent_on_the_wire()
    wired = float("nan") if sent is None or wire is None else float(sent - wire)
    return {"seconds": seconds / steps, "cpu": cpu / steps, "wire": wired / steps}


def agreed(value: float) -> float:
    """Return rank 0's value on all ranks."""
    told = torch.tensor([value], dtype=torch.float64)
    dist.broadcast(told, 0)
    return float(told)


def speed(node: ProcessNode, options: argparse.Namespace, taken: Samples) -> None:
    """Time all ways in turn; rank 0 prints a JSON line for each."""
    settings = {"ratio": options.ratio, "warm_up": 0, "momentum": options.momentum}
    runs: dict[str, Contender] = {}
    found: dict[str, dict[str, Any]] = {}
    counts: dict[str, int] = {}
    for name in options.methods:
        if name == ad_psgd.NAME:
            continue
        try:
            runs[name] = made = make(name, options.model, node, **settings)
            warm_up = max(WARM_UP, 2 * made.period)
            for step in range(warm_up):
                made.step(*taken.batch(step))
            while made.tuning is not None and not made.tuning.settled:
                made.step(*taken.batch(0))
            chosen = None if made.tuning is None else str(made.tuning)
            trial = max(1, made.period)
            rate = agreed(block(made, taken, warm_up, trial)["seconds"])
        except QuorateError as error:
            runs.pop(name, None)
            found[name] = {"skipped": " ".join(str(error).split())[:160]}
            continue
        wanted = max(options.seconds / options.repeats / rate, 1 if rate > SLOW else 4)
        counts[name] = made.period * -(-int(wanted + 0.999) // made.period)
        found[name] = {"chosen": chosen, "blocks": [], "steps": counts[name]}
    for turn in range(options.repeats):
        names = list(runs)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            found[name]["blocks"].append(block(runs[name], taken, turn, counts[name]))
    if ad_psgd.NAME in options.methods:
        found[ad_psgd.NAME] = ad_psgd.timed(node, options, sent_on_the_wire)
    if node.rank == 0:
        for name, told in found.items():
            print(json.dumps({"name": name} | told), flush=True)
    runs.clear()  # DDP's objects have to go before the group, or gloo may abort


def train(node: ProcessNode, options: argparse.Namespace, taken: Samples) -> None:
    """Train in all ways; rank 0 prints a JSON line for each: `to_loss` is when three looks' mean is at it."""
    target = (LOSS if taken.real else LOSS_OF_NOISE)[options.model]
    for name in options.methods:
        sent = node.trace.sent_bytes[node.rank]
        told: dict[str, Any] = {"name": name}
        try:
            if name == ad_psgd.NAME:
                kept, final = ad_psgd.learned(node, options, LOOK)
                looks = [(step, taken.measured(options.model, each, HELD_OUT)[0]) for step, each in kept]
            else:
                looks, final = learned(node, options, name, taken)
        except QuorateError as error:
            told["skipped"] = " ".join(str(error).split())[:160]
        else:
            losses = [loss for _, loss in looks]
            means = [sum(losses[at - 2 : at + 1]) / 3 for at in range(2, len(losses))]
            told["to_loss"] = next(
                (step for (step, _), mean in zip(looks[2:], means, strict=True) if mean <= target), None
            )
            told["loss"], told["accuracy"] = taken.measured(options.model, final)
            told |= {"steps": options.steps, "bytes": (node.trace.sent_bytes[node.rank] - sent) / options.steps}
        if node.rank == 0:
            print(json.dumps(told), flush=True)


def learned(
    node: ProcessNode, options: argparse.Namespace, name: str, taken: Samples
) -> tuple[list[tuple[int, float]], torch.Tensor]:
    """Return held-out losses by steps, and the parameters at the end, of a way in which all step together."""
    settings = {"ratio": options.ratio, "warm_up": options.warm_up, "momentum": options.momentum}
    made, looks = make(name, options.model, node, **settings), []
    for step in range(options.steps):
        if step == options.steps * 3 // 4:
            for each in made.optimizer.param_groups:
                each["lr"] *= 0.1
        made.step(*taken.batch(step))
        if (step + 1) % LOOK == 0:
            looks.append((step + 1, taken.measured(options.model, made.parameters(), HELD_OUT)[0]))
    return looks, made.parameters()


def worker(words: list[str]) -> None:
    """Do one part as one of the ranks."""
    options = argparse.Namespace(**json.loads(words[0]))
    torch.set_num_threads(1)
    with group(timeout=240) as node:
        taken = samples(options.model, Path(options.data) if options.data else None, node.rank, node.size)
        (speed if options.part == "speed" else train)(node, options, taken)


def piece(options: argparse.Namespace, part: str, network: str, model: str, size: int, methods: list[str]) -> Any:
    """Do one part on one network; return what was found by name, {} if it failed."""
    told = {key: getattr(options, key) for key in ("ratio", "momentum", "seconds", "repeats", "steps", "warm_up")}
    told |= {"part": part, "model": model, "methods": methods, "data": str(options.data) if options.data else None}
    where = {"size": size, "link": NETWORKS[network], "netlab": options.netlab, "lab": "qslow"}
    try:
        lines = run(__file__, [json.dumps(told)], timeout=options.timeout, **where)
    except RuntimeError as error:
        print(f"{part}, {network}, {model}, {size} ranks failed: {error}", file=sys.stderr, flush=True)
        return {}
    if options.json:
        facts = {"part": part, "network": network, "model": model, "ranks": size}
        with options.json.open("a") as file:
            file.writelines(json.dumps(facts | line) + "\n" for line in lines)
    return {line.pop("name"): line for line in lines}


def report(network: str, model: str, size: int, timed: dict[str, Any], trained: dict[str, Any]) -> None:
    """Print a table of one piece, and its figures."""
    where = f"{model}, {network}, {size} ranks"
    print(f"\n{where}\n{'':20}{'steps/s':>22}{'x fp32':>8}{'x best peer':>12}{'kB/step':>9}{'link allows':>12}", end="")
    print(f"{'CPU ms':>8}{'steps to loss':>14}{'seconds':>9}{'accuracy':>9}")
    rates = {name: [1 / each["seconds"] for each in told["blocks"]] for name, told in timed.items() if "blocks" in told}
    middle = {name: quartiles(each)[1] for name, each in rates.items()}
    peers = {name: rate for name, rate in middle.items() if name in PEERS}
    best = max(peers, key=lambda name: peers[name], default=None)
    link = NETWORKS[network]
    over: dict[str, float] = {}
    for name, told in timed.items():
        if "skipped" in told:
            print(f"{name:20} left out: {told['skipped']}")
            continue
        low, rate, high = quartiles(rates[name])
        cells = f"{name:20}{rate:9.2f} [{low:.2f}, {high:.2f}]".ljust(42)
        for rival, width in (("ddp fp32", 8), (best, 12)):
            paired = [a / b for a, b in zip(rates[name], rates.get(rival, []), strict=False)]
            cells += f"{quartiles(paired)[1]:{width}.2f}" if paired else " " * width
            if paired and rival == "ddp fp32":
                over[name] = quartiles(paired)[1]
        wired = quartiles([each["wire"] for each in told["blocks"]])[1]
        talks = link is not None and name != "alone"
        cells += f"{wired / 1e3:9.1f}{link.bytes_per_second / wired:12.1f}" if talks else f"{'-':>9}{'-':>12}"
        cells += f"{1e3 * quartiles([each['cpu'] for each in told['blocks']])[1]:8.1f}"
        learned = trained.get(name, {})
        if "accuracy" in learned:
            steps = learned["to_loss"]
            seconds = f"{steps / rate:.1f}" if steps else "-"
            cells += f"{steps or '-':>14}{seconds:>9}{100 * learned['accuracy']:8.2f}%"
        print(cells, flush=True)
        if told.get("chosen"):
            print("    " + told["chosen"].replace("\n", "\n    "))
    if size == 2:
        figures(where, network, model, middle, over, trained)


def figures(
    where: str, network: str, model: str, middle: dict[str, float], over: dict[str, float], trained: dict[str, Any]
) -> None:
    """Print the figures that have targets."""
    ours = {
        name: rate
        for name, rate in over.items()
        if name not in (*PEERS, "alone") and "local" not in name and name != ad_psgd.NAME
    }
    if ours and "ddp fp32" in middle:
        best = max(ours, key=lambda name: ours[name])
        learned, dense = trained.get(best, {}), trained.get("ddp fp32", {})
        points = 100 * (learned["accuracy"] - dense["accuracy"]) if learned and dense else None
        target = TARGETS.get(network) if model == "mlp" else None
        figure(f"steps/s over DDP fp32: {where}", ours[best], target, codec=best, points_of_accuracy=points)
        if "adaptive" in ours:
            fixed = max((rate for name, rate in ours.items() if name in LADDER), default=1.0)
            figure(f"adaptive over the best fixed choice of its own: {where}", ours["adaptive"] / fixed, 0.95)
            figure(f"adaptive over DDP fp32: {where}", ours["adaptive"], 1.0)
    if "power_sgd" in middle and "ddp power_sgd" in middle:
        target = 2.0 if network == "10mbit/10ms" else None
        figure(f"power_sgd over torch's hook: {where}", middle["power_sgd"] / middle["ddp power_sgd"], target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small piece: MLP, 2 ranks, few ways, few steps")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--models", nargs="+", default=["mlp", "cnn"], choices=["mlp", "cnn"])
    parser.add_argument("--ranks", nargs="+", type=int, default=[2, 4])
    parser.add_argument("--methods", nargs="+", default=["alone", *PEERS, *OURS], help="or names of any codecs")
    parser.add_argument("--repeats", type=int, default=3, help="blocks of each way")
    parser.add_argument("--seconds", type=float, default=6.0, help="of all blocks of one way together")
    parser.add_argument("--only", choices=["speed", "training"])
    parser.add_argument("--steps", type=int, default=1_000, help="of the training part")
    parser.add_argument("--ratio", type=float, default=codings.RATIO, help="k / d of sparsifiers")
    parser.add_argument("--warm-up", type=int, default=0, help="steps in which the ratio falls to it, in training")
    parser.add_argument("--momentum", type=float, default=0.0, help="momentum correction instead of the optimizer's")
    parser.add_argument("--timeout", type=float, default=1_800.0, help="seconds of one piece")
    parser.add_argument("--data", type=Path, default=os.environ.get("QUORATE_DATA"), help="folder of data sets")
    parser.add_argument("--netlab", default=shutil.which("netlab"), help="command that lays out network namespaces")
    parser.add_argument("--json", type=Path, help="file that the raw numbers are appended to")
    parser.add_argument("--worker", nargs=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker)
        return
    if options.quick:
        options.networks, options.models, options.ranks = ["loopback", "100mbit/1ms"], ["mlp"], [2]
        options.methods, options.seconds, options.steps = ["alone", "ddp fp32", "dense", "top_k"], 1.5, 48
    networks = [name for name in options.networks if NETWORKS[name] is None or options.netlab]
    if len(networks) < len(options.networks):
        print("no --netlab: the shaped networks are left out")
    if options.data is None:
        print("no --data: classes of noise stand for the data sets")
    fixed = [name for name in options.methods if name not in ("adaptive", "alone")]
    for model in options.models:
        for size in options.ranks:
            trained = {} if options.only == "speed" else piece(options, "training", "loopback", model, size, fixed)
            for network in networks:
                here = dict(trained)
                if "adaptive" in options.methods and options.only != "speed":
                    here |= piece(options, "training", network, model, size, ["adaptive"])
                timed = (
                    {} if options.only == "training" else piece(options, "speed", network, model, size, options.methods)
                )
                report(network, model, size, timed, here)
            if options.only == "training":
                for name, told in trained.items():
                    print(f"{model}, {size} ranks, {name:20} {json.dumps(told)}")


if __name__ == "__main__":
    main()
