"""Do redundancy codes find whoever lies, how exact is what they decode, and what do they cost the server?

    benchmarks/draco.py [--hdmedians INTERPRETER]

1. For n = 45 and s = 1, 3, 5, 8, over seeds: in how many runs all liars are named, how often an honest worker is, and
   the largest error of the decoded mean relative to the mean of all gradients. Lies: see `LIES`. `repetition` runs with
   the n nearest to 45 that is a multiple of 2s + 1, and with s liars in total.
2. The server's step: the vote, the cyclic code without and with liars, our geometric median, the mean, and, if an
   interpreter has it, `hdmedians.geomedian`, the geometric median that DRACO was compared with. Rounds alternate.
3. Bytes that all workers upload in a step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quorate.aggregators.geometric_median import geometric_median
from quorate.aggregators.mean import mean
from quorate.codes import Code
from quorate.codes.cyclic import Cyclic
from quorate.codes.repetition import Repetition
from quorate.errors import RunError
from quorate.rand import Rand
from quorate.votes import DIGEST_BYTES, digest

N, LIARS = 45, (1, 3, 5, 8)
PEER = """
import sys, time
import hdmedians, numpy
n, d = int(sys.argv[1]), int(sys.argv[2])
rows = numpy.random.default_rng(0).standard_normal((n, d)).astype(numpy.float32)
for line in sys.stdin:
    start = time.perf_counter()
    hdmedians.geomedian(rows, axis=0)
    print(time.perf_counter() - start, flush=True)
"""


def noise(rand: Rand, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=rand.generator())


def mixed(honest: Tensor, place: int, rand: Rand) -> Tensor:
    return honest + (1e3 if place == 0 else 1e-2) * noise(rand, len(honest))


LIES: dict[str, Callable[[Tensor, int, Rand], Tensor]] = {
    "none": lambda honest, place, rand: honest,
    "reversed": lambda honest, place, rand: -100 * honest,
    "constant": lambda honest, place, rand: torch.full_like(honest, -100),
    "small": lambda honest, place, rand: honest + 1e-2 * noise(rand, len(honest)),
    "huge": lambda honest, place, rand: 1e30 * noise(rand, len(honest)),
    "mixed": mixed,
    "fewer": lambda honest, place, rand: -100 * honest,
    "agreed": lambda honest, place, rand: honest + 1e-2 * noise(rand.fold("all"), len(honest)),
    "nan": lambda honest, place, rand: torch.full_like(honest, torch.nan),
}
"""What the liar at a place among the liars answers; "fewer": there are (s + 1) // 2; "agreed": all add the same."""


def meeting(code: Code, n: int, d: int, lie: str, seed: int) -> tuple[Tensor, list[Tensor], list[int]]:
    """Return the gradients (n, d), all answers, and who has lied."""
    rand = Rand(seed).fold(lie)
    gradients = 0.3 * noise(rand.fold("common"), d) + noise(rand.fold("own"), n, d)
    answers = [code.encode([gradients[batch] for batch in code.batches(n, rank)], n, rank) for rank in range(n)]
    count = {"none": 0, "fewer": (code.s + 1) // 2}.get(lie, code.s)
    liars = sorted(torch.randperm(n, generator=rand.fold("who").generator())[:count].tolist())
    for place, rank in enumerate(liars):
        answers[rank] = LIES[lie](answers[rank], place, rand if lie == "agreed" else rand.fold(rank))
    return gradients, answers, liars


def found(code: Code, n: int, d: int, lie: str, seeds: int) -> dict[str, Any]:
    """Return how often all liars were named, and honest ones, and how exact the mean was."""
    named, accused, refused, worst = 0, 0, 0, 0.0
    for seed in range(seeds):
        gradients, answers, liars = meeting(code, n, d, lie, seed)
        exact = gradients.double().mean(0)
        try:
            decoded = code.decode(answers, gradients[0])
        except RunError:
            refused += 1
            continue
        named += decoded.convicted == tuple(liars)
        accused += len(set(decoded.convicted) - set(liars))
        worst = max(worst, float((decoded.mean.double() - exact).norm() / exact.norm()))
    return {"lie": lie, "named": named, "accused": accused, "refused": refused, "error": worst}


def nearest(s: int) -> int:
    size = 2 * s + 1
    return max(1, (N + size // 2) // size) * size


def accuracy(seeds: int, d: int) -> list[dict[str, Any]]:
    """Print and return, for every code, s and lie, what `found` says."""
    rows = []
    print(f"\nn = {N}, d = {d}, {seeds} seeds: all liars named / honest ones accused / largest relative error\n")
    print("| code | s | n | " + " | ".join(LIES) + " |\n|---|---|---|" + "---|" * len(LIES))
    for s in LIARS:
        for name, code, n in (
            ("repetition", Repetition(s), nearest(s)),
            ("cyclic, complex", Cyclic(s), N),
            ("cyclic, real", Cyclic(s, numbers="real"), N),
        ):
            cells = [found(code, n, d, lie, seeds) for lie in LIES]
            rows += [{"code": name, "s": s, "n": n, **cell} for cell in cells]
            said = [f"{each['named']} / {each['accused']} / {each['error']:.0e}" for each in cells]
            print(f"| {name} | {s} | {n} | " + " | ".join(said) + " |", flush=True)
    return rows


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def costs(d: int, rounds: int, s: int, interpreter: Path | None) -> dict[str, list[float]]:
    """Print and return the seconds of the server's step; the first round is thrown away as warm-up."""
    code, vote = Cyclic(s), Repetition(1)
    gradients, repeated, _ = meeting(vote, N, d, "reversed", 0)
    _, free, _ = meeting(code, N, d, "none", 0)
    _, lied, _ = meeting(code, N, d, "reversed", 0)
    digests = [digest(answer) for answer in repeated]
    calls: dict[str, Callable[[], float]] = {
        "mean": lambda: timed(lambda: mean(gradients)),
        "vote on all answers": lambda: timed(lambda: vote.decode(repeated, gradients[0])),
        "vote on digests": lambda: timed(lambda: by_digests(vote, repeated, digests)),
        f"cyclic, s = {s}, no liars": lambda: timed(lambda: code.decode(free, gradients[0])),
        f"cyclic, s = {s}, {s} liars": lambda: timed(lambda: code.decode(lied, gradients[0])),
        "geometric median": lambda: timed(lambda: geometric_median(gradients, f=s)),
    }
    peer = None
    if interpreter is None:
        print("\nleft out: hdmedians (give --hdmedians INTERPRETER)")
    else:
        command = [str(interpreter), "-c", PEER, str(N), str(d)]
        peer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        calls["hdmedians.geomedian"] = lambda: asked(peer)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            seconds[name].append(call())
    if peer is not None:
        peer.communicate(timeout=60)
    base = statistics.median(seconds["vote on all answers"][1:])
    print(
        f"\nThe server's step, n = {N}, d = {d}, float32, {rounds} rounds\n\n| | seconds | of the vote on all answers |"
    )
    print("|---|---|---|")
    for name, taken in seconds.items():
        low, middle, high = statistics.quantiles(taken[1:], n=4)
        print(f"| {name} | {middle:.4f} ({low:.4f} - {high:.4f}) | {middle / base:.2f} |")
    return {name: taken[1:] for name, taken in seconds.items()}


def by_digests(code: Repetition, answers: Sequence[Tensor], digests: Sequence[Tensor]) -> Tensor:
    """Do what the server does if workers vote by digests: check the digest of what has come of each group, and add."""
    won = [(answers[party[0]], digests[party[0]]) for party in code.vote(digests).majorities]
    assert all(torch.equal(digest(answer), voted) for answer, voted in won)
    return code.mean([answer for answer, _ in won])


def asked(peer: Any) -> float:
    """Return the seconds that a peer took for one more round."""
    peer.stdin.write("\n")
    peer.stdin.flush()
    return float(peer.stdout.readline())


def uploads(d: int) -> None:
    """Print the bytes that all workers upload in a step."""
    plain = 4 * N * d
    print(f"\nUploads of {N} workers, d = {d}\n\n| | megabytes | of plain averaging |\n|---|---|---|")
    for name, size in (
        ("plain averaging, float32", plain),
        ("repetition, s = 1, digests first", N // 3 * 4 * d + N * DIGEST_BYTES),
        ("repetition, all answers", plain),
        ("cyclic, real, single", N * 4 * d),
        ("cyclic, complex, single", N * 8 * d),
        ("cyclic, complex, double, as DRACO needs", N * 16 * d),
    ):
        print(f"| {name} | {size / 1e6:.1f} | {size / plain:.2f} |")


def main(words: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, default=100)
    options.add_argument("--d", type=int, default=1000, help="coordinates in the first part")
    options.add_argument("--parameters", type=int, default=10**6, help="coordinates in the other parts")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--hdmedians", type=Path, metavar="INTERPRETER", help="of an environment that has hdmedians")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--json", type=Path)
    chosen = options.parse_args(words)
    torch.set_num_threads(chosen.threads)
    rows = accuracy(chosen.seeds, chosen.d)
    seconds = costs(chosen.parameters, chosen.rounds, 5, chosen.hdmedians)
    uploads(chosen.parameters)
    if chosen.json:
        chosen.json.write_text(json.dumps({"found": rows, "seconds": seconds, "threads": chosen.threads}, indent=1))


if __name__ == "__main__":
    main()
