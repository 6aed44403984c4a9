"""Workers that begin as copies of a process that has imported torch: in hundredths of a second instead of seconds.

For tests of what workers do. Those of how they are started, watched and ended start them as users do.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import reduction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

_FORKS = multiprocessing.get_context("forkserver")
_PAGES = ["tensorboardX", "plotly.graph_objs._figure", "plotly.graph_objs._scatter", "plotly.subplots"]
_FORKS.set_forkserver_preload(["pytest", "quorate.cli", "quorate.run", "sklearn.datasets", "tests.tiny", *_PAGES])


class Forked:
    """What `subprocess.Popen` makes of `python -m MODULE WORDS`, as far as the launcher of workers asks for it.

    Args:
        env: all environment variables.
        outputs: the files for its standard output and error, by number.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str], outputs: tuple[int, int] = (1, 2)) -> None:
        python, flag, module, *words = command
        assert (python, flag) == (sys.executable, "-m"), f"{command} is not started by fork"
        self._process = _FORKS.Process(target=_run, args=(module, words, dict(env), _Lent(outputs)), daemon=True)
        self._process.start()
        self.kill = self._process.kill

    def poll(self) -> int | None:
        """Return the exit status, -N of one that signal N has killed; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end, or so many seconds; return the exit status."""
        self._process.join(timeout)
        return self.poll()


class _Lent:
    """Open files, by number, that a process is given; it gets them as numbers of its own."""

    def __init__(self, files: tuple[int, ...]) -> None:
        self._files = files

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _taken, tuple(reduction.DupFd(file) for file in self._files)


def _taken(*files: Any) -> list[int]:
    return [file.detach() for file in files]


def _run(module: str, words: Sequence[str], env: Mapping[str, str], outputs: list[int]) -> None:
    for here, file in zip((1, 2), outputs, strict=True):
        os.dup2(file, here)
    os.environ.clear()
    os.environ.update({name: value for name, value in env.items() if name != "QUORATE_LAUNCHER"})  # not its parent
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


@contextmanager
def launching() -> Iterator[None]:
    """Have `launch` start workers by fork."""
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr("quorate.engines.launch.subprocess", SimpleNamespace(Popen=Forked))
        yield


def ranks(module: str, words_of_rank: Sequence[Sequence[object]], seconds: float = 250) -> None:
    """Run a module once per rank, each with its words; all must end well."""
    processes = [Forked([sys.executable, "-m", module, *map(str, words)], os.environ) for words in words_of_rank]
    assert [process.wait(seconds) for process in processes] == [0] * len(processes)


def as_torchrun(module: str, size: int, folder: Path, seconds: float = 250) -> str:
    """Run a module on ranks with the environment of torchrun's workers; all must end well. Return what they wrote."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    told |= {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "OMP_NUM_THREADS": "1"}
    with (folder / "output.txt").open("ab") as output:
        numbers = (output.fileno(), output.fileno())
        envs = [os.environ | told | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]
        processes = [Forked([sys.executable, "-m", module], env, numbers) for env in envs]
        ends = [process.wait(seconds) for process in processes]
    text = (folder / "output.txt").read_text()
    assert ends == [0] * size, text
    return text
