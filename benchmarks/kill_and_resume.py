"""Does a run that is killed at a random moment end with the parameters of one that nobody disturbed?

Runs a recipe once undisturbed; then, 20 times each on the simulator and on two real processes, starts it, kills it with
SIGKILL at a random moment - every fourth while it starts, the others between two checkpoints, or within one -,
resumes it, in half of the cases kills the resumption too, and compares `parameters_sha256`, bytes and accuracy. A run
that is killed before its folder exists is started again.

The full run takes about 10 minutes, `--quick` (2 kills each) under 60 s.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from figures import figure

RECIPE = """
seed = 3
[program]
name = "local_sgd"
steps = {steps}
[period]
name = "every"
tau = 3
[optimizer]
name = "adam"
lr = 0.01
[record]
checkpoint = 7
evaluate = 20
"""


def quorate(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "quorate", *arguments, "--json"]


def last_line(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def killed(command: list[str], out: Path, step: int, after: float) -> None:
    """Start a command, and kill it `after` seconds after the checkpoint of a step is there, unless it ends before."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None and steps_done(out) < step:
        time.sleep(0.001)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--kills", type=int, help="instead of 20, or 2 with --quick")
    options = parser.parse_args()
    kills = options.kills or (2 if options.quick else 20)
    chance = random.Random(0)
    steps = 600
    for engine in ("--simulate", "--workers"):
        folder = Path(tempfile.mkdtemp(prefix="kill-"))
        try:
            recipe = folder / "recipe.toml"
            recipe.write_text(RECIPE.format(steps=steps))
            undisturbed = last_line(quorate("run", str(recipe), engine, "2", "--out", str(folder / "whole")))
            equal, moments = 0, []
            for number in range(kills):
                out = folder / f"run-{number}"
                run = quorate("run", str(recipe), engine, "2", "--out", str(out))
                resume = quorate("resume", str(out))
                starting = number % 4 == 3
                step, after = -1 if starting else chance.randrange(steps), chance.uniform(0, 4.0 if starting else 0.05)
                killed(run, out, step, after)
                moments.append(steps_done(out))
                if number % 2 and (out / "run.json").exists():
                    killed(resume, out, moments[-1] + chance.randrange(steps // 4), chance.uniform(0, 0.05))
                if not (out / "run.json").exists():
                    shutil.rmtree(out, ignore_errors=True)
                result = last_line(resume if (out / "run.json").exists() else run)
                same = all(result[key] == undisturbed[key] for key in ("parameters_sha256", "bytes", "accuracy"))
                equal += same
                print(f"{engine} killed {after:.3f} s after the checkpoint of step {moments[-1]:4}: {same}", flush=True)
            name = {"--simulate": "simulator", "--workers": "processes"}[engine]
            figure(f"killed runs that end equal, {name}", equal / kills, 1.0, kills=kills, checkpoints=moments)
        finally:
            shutil.rmtree(folder)


def steps_done(out: Path) -> int:
    """Return the step of the newest checkpoint file; -1 if there is none."""
    return max((int(path.name[5:13]) for path in out.glob("checkpoints/step-*")), default=-1)


if __name__ == "__main__":
    main()
