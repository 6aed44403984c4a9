"""Are the parameters of an attacked run under a redundancy code those of a run in which nobody lies?

MNIST, the 2NN, 200 steps, DRACO's learning rate; five of 15 simulated workers send -100 times their gradients: under
`repetition`, one in each group of three, to the bit, and under `cyclic` with s = 5 within 1e-5: there the liars' places
change the rounding, which grows as training goes on (with a learning rate of 0.05 to 8e-5). Then three of nine real
processes, under `repetition` with s = 1, to the bit those of simulated workers of whom nobody lies.

What it needs: --data (or QUORATE_DATA) with mnist/. About two minutes on two free cores.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from figures import figure
from safetensors.torch import load_file
from torch import Tensor

from quorate import run as runs
from quorate.recipe import parse

RECIPE = """
seed = 7
workers = {size}
[task]
name = "mnist"
[program]
name = "coded_sgd"
steps = {steps}
batch = 8
[code]
name = "{code}"
s = {s}
[optimizer]
name = "sgd"
lr = 0.01
momentum = 0.9
[record]
evaluate = 0
checkpoint = 0
"""
LIES = """
[attack]
name = "reversed_gradient"
[hostile]
ranks = {ranks}
"""
FIVE = [1, 5, 6, 10, 14]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("QUORATE_DATA"), help="the folder of data sets")
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    steps, met = options.steps, True
    with tempfile.TemporaryDirectory() as folder:

        def ends(name: str, code: str, s: int, size: int, ranks: list[int], run: Any = runs.simulate) -> Tensor:
            text = RECIPE.format(size=size, steps=steps, code=code, s=s)
            text += LIES.format(ranks=ranks) if ranks else ""
            result = run(parse(text, name, Path(folder)), size, Path(folder) / name, options.data)
            print(f"{name}: test accuracy {result['accuracy']:.4f}, {result['bytes'] / 1e6:.0f} MB", flush=True)
            held = load_file(Path(folder) / name / "parameters.safetensors")
            return torch.cat([each.flatten() for _, each in sorted(held.items())])

        for code, s, most in (("repetition", 1, 0.0), ("cyclic", 5, 1e-5)):
            honest, lied = (ends(f"{code}, {len(ranks)} of 15 lie", code, s, 15, ranks) for ranks in ([], FIVE))
            apart = float((honest - lied).abs().max())
            met &= figure(f"{code}, 5 of 15 lie, {steps} steps: largest difference", apart, most, at_least=False)
        honest = ends("nine", "repetition", 1, 9, [])
        real = ends("nine-real", "repetition", 1, 9, [2, 4, 6], run=runs.processes)
        apart = float((honest - real).abs().max())
        met &= figure(f"repetition, 3 of 9 processes lie, {steps} steps: difference", apart, 0.0, at_least=False)
    raise SystemExit(not met)


if __name__ == "__main__":
    main()
