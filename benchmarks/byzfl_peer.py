"""ByzFL's aggregators, timed one call at a time in a process of their own: the peer of `aggregators.py`.

Needs torch, numpy and byzfl, but not Quorate, so that any interpreter can run it. It reads lines of JSON from standard
input, each a name of the table given to `serve`, with numbers for it, and answers each by one line of JSON.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

Rule = Callable[[Any], Any]
Table = dict[str, Callable[..., Rule]]


def import_byzfl() -> Any:
    """Import ByzFL; its torchvision does not import beside a torch without CUDA unless some operators are declared.

    They are declared by name until it does; nothing here calls them.
    """
    libraries = []
    while True:
        try:
            importlib.import_module("torchvision")
            break
        except ModuleNotFoundError:
            break
        except RuntimeError as error:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if not missing:
                raise
            libraries.append(torch.library.Library("torchvision", "FRAGMENT"))
            libraries[-1].define(f"{missing[1]}(Tensor x) -> Tensor")
            for name in [each for each in sys.modules if each.split(".")[0] == "torchvision"]:
                del sys.modules[name]
    byzfl = importlib.import_module("byzfl")
    byzfl.declared = libraries  # operators vanish with the object that has declared them
    return byzfl


def byzfl_table() -> Table:
    """Return ByzFL's rules by Quorate's names, each made for f."""
    byzfl = import_byzfl()
    return {
        "mean": lambda f: byzfl.Average(),
        "median": lambda f: byzfl.Median(),
        "trimmed_mean": lambda f: byzfl.TrMean(f=f),
        "meamed": lambda f: byzfl.Meamed(f=f),
        "geometric_median": lambda f: byzfl.GeometricMedian(nu=0.1, T=3),
        "krum": lambda f: byzfl.Krum(f=f),
        "multi_krum": lambda f: byzfl.MultiKrum(f=f),
        "centered_clipping": lambda f: lambda x: byzfl.CenteredClipping(L=1, tau=100.0)(x),
        "mda": lambda f: byzfl.MDA(f=f),
        "monna": lambda f: byzfl.MoNNA(f=f, idx=0),
        "caf": lambda f: byzfl.CAF(f=f),
        "smea": lambda f: byzfl.SMEA(f=f),
        "nearest_neighbor_mixing": lambda f: byzfl.NNM(f=f),
        "bucketing": lambda f: byzfl.Bucketing(s=2),
        # These two write to what they are given, which others may still need.
        "norm_clipping": lambda f: lambda x: byzfl.Clipping(c=1000.0)(x + 0),
        "adaptive_clipping": lambda f: lambda x: byzfl.ARC(f=f)(x + 0),
    }


def peak() -> int:
    """Return the most bytes that this process has held since `forget_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise OSError("this system does not say how much memory a process has held; run this benchmark on Linux")


def forget_peak() -> None:
    """Begin to measure memory anew."""
    Path("/proc/self/clear_refs").write_text("5")


def serve(table: Table, path: str, threads: int) -> None:
    """Answer requests {"rule", "f", "warm", "keep", "wide"} until the end of standard input.

    `warm` asks for a small call before; `keep` names the file that the result goes to, `wide`: that of numpy's
    float64, which ByzFL does not round to float32.

    Args:
        table: rules by name.
        path: updates (n, d), a .npy file; results are written elsewhere, if asked for.
        threads: what torch may use.
    """
    torch.set_num_threads(threads)
    x = torch.from_numpy(np.load(path))
    print(json.dumps({"rules": sorted(table)}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        rule, answer = table[asked["rule"]](asked["f"]), {}
        try:
            if asked["warm"]:
                table[asked["rule"]](1)(x[:9, :5000].clone())
            forget_peak()
            before, began = peak(), time.perf_counter()
            result = rule(x)
            seconds = time.perf_counter() - began
            extra = peak() - before - result.numel() * result.element_size()
            answer = {"seconds": seconds, "extra": max(0, extra)}
            if asked["keep"]:
                np.save(asked["keep"], np.asarray(rule(x.numpy().astype(np.float64)) if asked["wide"] else result))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve(byzfl_table(), sys.argv[1], int(sys.argv[2]))
