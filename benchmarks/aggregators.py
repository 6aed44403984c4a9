"""What does it cost to aggregate robustly, in time and memory, next to ByzFL?

One tensor of updates for both: float32, n = 45, d = 10^6, of which f = 5 lie ("a little is enough", 1.5 standard
deviations). Each library is a process of its own with the same number of threads; calls alternate, and the medians'
ratio is printed, with how far the results are apart. Extra memory is the most that a fresh process holds beyond input
and result while it is called once. ByzFL's interpreter, which needs byzfl, torchvision and what they import, is named
by `--byzfl`; without one, only Quorate is measured. What takes ByzFL longer than `--limit` seconds has no ratio.

Not compared are results that chance has a part in (bucketing; ByzFL's caf) or that are not the same thing: of the
geometric median, both sums of distances are printed, for ByzFL stops after 3 steps. Rules that clip are compared with
what ByzFL makes of the same updates in float64, for its norms of 10^6 numbers in float32 are off by 1e-5.

`--large`: also every rule at n = 10, d = 10^8, in a fresh process each, about 15 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import math
import select
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from byzfl_peer import Table, serve
from figures import figure, quartiles

from quorate import parts
from quorate.aggregators import most_of, what_it_is_given
from quorate.rand import Rand

HERE = Path(__file__).parent
SETTINGS: dict[str, dict[str, Any]] = {
    "centered_clipping": {"radius": 100.0},
    "bucketing": {"size": 2},
    "norm_clipping": {"radius": 1000.0},
}
BY_CHANCE = {"bucketing", "caf"}
CLIPPING = {"centered_clipping", "norm_clipping", "adaptive_clipping"}
NOT_ROBUST = {"mean", "majority_vote"}


def own_table(n: int) -> Table:
    """Return all of Quorate's rules, pre-aggregators among them, each made for f and told what ByzFL's is."""
    found: Table = {}
    for kind in ("aggregator", "pre_aggregator"):
        for name in parts.names(kind):
            part = parts.find(kind, name)
            found[name] = partial(_made, part, name, n)
    return found


def _made(part: Any, name: str, n: int, f: int) -> Any:
    settings = dict(SETTINGS.get(name, {}))
    if "f" in parts.settings(part):
        settings["f"] = f
    if "nearest" in parts.settings(part):  # ByzFL counts one neighbour more than the paper
        return lambda x: part(x, nearest=len(x) - f - 1, **settings)
    if "rand" in what_it_is_given(part):
        settings["rand"] = Rand(0)
    if "last" in what_it_is_given(part):
        return lambda x: part(x, last=torch.zeros(x.shape[1]), **settings)
    return partial(part, **settings)


class Contender:
    """A library in a process of its own, asked for one call at a time."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.rules: list[str] = (self._answer(300) or {"rules": []})["rules"]

    def ask(
        self, rule: str, f: int, *, limit: float, warm: bool = False, keep: Path | None = None, wide: bool = False
    ) -> dict[str, Any]:
        """Return seconds and bytes of one call, or an error; see `serve`."""
        if self._process.poll() is not None:
            return {"error": "stopped"}
        assert self._process.stdin is not None
        request = {"rule": rule, "f": f, "warm": warm, "keep": None if keep is None else str(keep), "wide": wide}
        self._process.stdin.write(json.dumps(request) + "\n")
        return self._answer(limit) or {"error": f"no result in {limit:.0f} s"}

    def _answer(self, limit: float) -> dict[str, Any] | None:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], limit)[0]:
            self.stop()
            return None
        line = self._process.stdout.readline()
        return json.loads(line) if line else {"error": f"ended with status {self._process.wait()}"}

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def drawn(n: int, f: int, d: int, seed: int = 0) -> torch.Tensor:
    """Draw honest updates around a centre, and f that are 1.5 standard deviations off in every coordinate."""
    generator = torch.Generator().manual_seed(seed)
    centre = 0.5 * torch.randn(d, generator=generator)
    x = torch.randn(n, d, generator=generator).add_(centre)
    if f:
        honest = x[: n - f]
        x[n - f :] = honest.mean(dim=0) - 1.5 * honest.std(dim=0)
    return x[torch.randperm(n, generator=generator)]


def spread(x: np.ndarray, y: np.ndarray) -> float:
    """Return the sum of the distances of rows x (n, d) from y (d,)."""
    return float(sum(np.linalg.norm(row.astype(np.float64) - y) for row in x))


def compare(options: argparse.Namespace, folder: Path) -> list[float]:
    """Print a line for each rule; return the ratios."""
    path, n, f = folder / "updates.npy", options.n, options.f
    np.save(path, drawn(n, f, options.d).numpy())
    commands = {"ours": [sys.executable, __file__, "--serve", str(path), "--threads", str(options.threads)]}
    if options.byzfl:
        commands["byzfl"] = [options.byzfl, str(HERE / "byzfl_peer.py"), str(path), str(options.threads)]
    ratios = []
    for name in sorted(own_table(n)):
        if options.only and name not in options.only:
            continue
        contenders = {who: Contender(command) for who, command in commands.items()}
        contenders = {who: each for who, each in contenders.items() if name in each.rules}
        first = {
            who: each.ask(
                name,
                f,
                limit=options.limit,
                warm=True,
                keep=folder / f"{who}.npy",
                wide=who == "byzfl" and name in CLIPPING,
            )
            for who, each in contenders.items()
        }
        works = [who for who in contenders if "error" not in first[who]]
        seconds: dict[str, list[float]] = {who: [] for who in works}
        for repeat in range(options.repeats):
            for who in works[:: 1 if repeat % 2 else -1]:
                seconds[who].append(contenders[who].ask(name, f, limit=options.limit)["seconds"])
        for each in contenders.values():
            each.stop()
        ratios += report(name, first, seconds, folder)
    return ratios


def report(name: str, first: dict[str, Any], seconds: dict[str, list[float]], folder: Path) -> list[float]:
    """Print what a rule cost, and how far results are apart; return the ratio, if there is one."""
    more: dict[str, Any] = {
        "extra_mb": {who: round(each["extra"] / 1e6, 1) for who, each in first.items() if "extra" in each}
    }
    more |= {who: each["error"] for who, each in first.items() if "error" in each}
    if "ours" not in seconds:
        figure(f"{name}: failed", 1, 0, at_least=False, **more)
        return []
    ours = statistics.median(seconds["ours"])
    more |= {"ours_quartiles": quartiles(seconds["ours"])}
    if "byzfl" not in seconds:
        figure(f"{name}: seconds", ours, 0.1 if name == "mda" else None, at_least=False, **more)
        return []
    more |= {"ours_seconds": ours, "byzfl_seconds": statistics.median(seconds["byzfl"])}
    x, y = np.load(folder / "ours.npy"), np.load(folder / "byzfl.npy")
    if name == "geometric_median":
        updates = np.load(folder / "updates.npy", mmap_mode="r")
        more |= {"sum_of_distances": {"ours": spread(updates, x), "byzfl": spread(updates, y)}}
    elif name not in BY_CHANCE:
        apart = float(np.abs(x - y).max() / np.abs(y).max())
        figure(f"{name}: largest difference over largest entry", apart, 1e-6, at_least=False)
    ratio = statistics.median(b / a for a, b in zip(seconds["ours"], seconds["byzfl"], strict=True))
    robust = name not in NOT_ROBUST
    figure(f"{name}: times as fast as ByzFL", ratio, 2.0 if robust else None, **more)
    if robust:
        ours, byzfl = (first[who]["extra"] for who in ("ours", "byzfl"))
        figure(f"{name}: extra memory over ByzFL's", max(ours, 1) / max(byzfl, 1), 0.2, at_least=False)
    return [ratio] if robust else []


def large(options: argparse.Namespace, folder: Path, n: int = 10, d: int = 10**8) -> None:
    """Print seconds and memory of every rule on updates that are large."""
    path = folder / "large.npy"
    np.save(path, drawn(n, 1, d).numpy())
    for name in sorted(own_table(n)):
        if options.only and name not in options.only:
            continue
        rule = parts.find("aggregator" if name in parts.names("aggregator") else "pre_aggregator", name)
        f = min(1, most_of(rule, n)) if hasattr(rule, "most") else 1
        contender = Contender([sys.executable, __file__, "--serve", str(path), "--threads", str(options.threads)])
        found = contender.ask(name, f, limit=600, warm=True)
        contender.stop()
        share = found.get("extra", math.inf) / (4 * n * d)
        figure(
            f"{name} of 10 x 10^8: memory beyond input and result, over the input", share, 0.1, at_least=False, **found
        )


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--byzfl", metavar="INTERPRETER", help="Python in which byzfl can be imported")
    args.add_argument("--n", type=int, default=45)
    args.add_argument("--f", type=int, default=5)
    args.add_argument("--d", type=int, default=10**6)
    args.add_argument("--repeats", type=int, default=5)
    args.add_argument("--threads", type=int, default=2)
    args.add_argument("--limit", type=float, default=60.0, help="seconds for one call")
    args.add_argument("--only", nargs="*", help="names of rules")
    args.add_argument("--large", action="store_true", help="also n = 10, d = 10^8")
    args.add_argument("--serve", help=argparse.SUPPRESS)
    options = args.parse_args()
    if options.serve:
        serve(own_table(options.n), options.serve, options.threads)
        return
    with tempfile.TemporaryDirectory() as folder:
        ratios = compare(options, Path(folder))
        if ratios:
            figure("geometric mean of times as fast", statistics.geometric_mean(ratios), 4.0, rules=len(ratios))
        if options.large:
            large(options, Path(folder))


if __name__ == "__main__":
    main()
