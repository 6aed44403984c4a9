"""Further processes that share a cohort's local work with this one.

They begin while this process goes on, and are given work from when they are ready. What one does not bring back,
because it has failed, was killed or hangs, is done again here.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
import time
import weakref
from collections import deque
from collections.abc import Sequence

import torch

from quorate.engines.cohorts_parcels import Parcel, receive, send
from quorate.engines.cohorts_pieces import Done, Form
from quorate.federated.local import LocalWork

_PATIENCE = 600.0  # seconds without a word after which a process is taken to hang
_ENDING = 5.0  # seconds that a process is given to end by itself


class Helper:
    """One process.

    Args:
        parcel: (form that it works with, torch's threads).

    Raises:
        OSError: if it can't be started.
    """

    def __init__(self, parcel: Parcel) -> None:
        self._link, theirs = socket.socketpair()
        command = [sys.executable, "-m", "quorate.engines.cohorts_worker", str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        self.end = weakref.finalize(self, _end, self._link, self._process)
        self.ready = False
        self.waits_for: deque[int] = deque()
        """The places of the pieces that it was given and has not brought back."""
        self._heard = time.monotonic()
        try:
            parcel.send(self._link)
        except BaseException:
            self.end()
            raise

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._process.pid

    def fileno(self) -> int:
        """Return what tells that it has said something."""
        return self._link.fileno()

    def give(self, place: int, works: Sequence[LocalWork]) -> None:
        """Give it a piece."""
        if not self.waits_for:
            self._heard = time.monotonic()
        send(self._link, list(works))
        self.waits_for.append(place)

    def take(self) -> tuple[int, Done] | None:
        """Return a piece that it has brought back; None if it has only become ready.

        Raises:
            EOFError: if it has ended.
            RuntimeError: if it has failed.
        """
        said = receive(self._link)
        self._heard = time.monotonic()
        if not self.ready:
            self.ready = True
            return None
        if not isinstance(said, Done):
            raise RuntimeError(str(said))
        return self.waits_for.popleft(), said

    @property
    def late(self) -> bool:
        """Whether it has been silent for so long that it is taken to hang."""
        return bool(self.waits_for) and time.monotonic() - self._heard > _PATIENCE


class Processes:
    """This process, and others that help it.

    Args:
        form: what they work with.
        count: how many there are, this one included.
    """

    def __init__(self, form: Form, count: int) -> None:
        self._form, self.lost = form, list[str]()
        self.helpers: list[Helper] = []
        try:
            with Parcel((form, torch.get_num_threads())) as parcel:
                for _ in range(count - 1):
                    self.helpers.append(Helper(parcel))
                parcel.share([form.data.x, form.data.y])
        except Exception as error:  # a loss that can't be pickled, or no memory: this process goes on alone
            self.lost.append(f"no further process could be started: {(str(error) or type(error).__name__)[:200]}")

    @property
    def ready(self) -> int:
        """How many processes can be given work, this one included."""
        waiting = [helper for helper in self.helpers if not helper.ready]
        self._listen(waiting, 0.0, {})
        return 1 + sum(helper.ready for helper in self.helpers)

    def wait(self, seconds: float) -> bool:
        """Wait until all that were started are ready; return whether they are."""
        until = time.monotonic() + seconds
        while (waiting := [each for each in self.helpers if not each.ready]) and time.monotonic() < until:
            self._listen(waiting, until - time.monotonic(), {})
        return bool(self.helpers) and not waiting

    def do(self, pieces: Sequence[Sequence[LocalWork]]) -> list[Done]:
        """Do pieces of work, the largest first, each by whoever is free."""
        effort = [sum(work.samples for work in piece) for piece in pieces]
        queue = deque(sorted(range(len(pieces)), key=lambda place: -effort[place]))
        done: dict[int, Done] = {}
        try:
            self._do(pieces, queue, done)
        except BaseException:
            self.close()  # lest answers come that nobody waits for
            raise
        return [done[place] for place in range(len(pieces))]

    def _do(self, pieces: Sequence[Sequence[LocalWork]], queue: deque[int], done: dict[int, Done]) -> None:
        while len(done) < len(pieces):
            helpers = [helper for helper in self.helpers if helper.ready]
            for helper in helpers:
                self._give(helper, queue, pieces, len(helpers) + 1)
            if queue:
                place = queue.popleft()
                done[place] = self._form.do(pieces[place])
            self._listen(self.helpers, 0.0 if queue else 1.0, done)
            for helper in self.helpers:
                if helper.late:
                    self._lose(helper, f"it was silent for {_PATIENCE:g} s")
            under_way = {place for helper in self.helpers for place in helper.waits_for}
            queue.extend(place for place in range(len(pieces)) if not {place} & (under_way | done.keys() | set(queue)))

    def _give(self, helper: Helper, queue: deque[int], pieces: Sequence[Sequence[LocalWork]], workers: int) -> None:
        """Give one piece to a process that has none; one more, so that it need not wait, if there are enough."""
        while queue and (not helper.waits_for or (len(helper.waits_for) < 2 and len(queue) > workers)):
            try:
                helper.give(queue[0], pieces[queue[0]])
            except Exception as error:
                self._lose(helper, str(error) or type(error).__name__)
                return
            queue.popleft()

    def _listen(self, helpers: Sequence[Helper], seconds: float, done: dict[int, Done]) -> None:
        """Wait at most so long for what processes say, unless none is awaited."""
        awaited = [helper for helper in helpers if helper.waits_for or not helper.ready]
        for helper in select.select(awaited, [], [], seconds)[0] if awaited else []:
            try:
                brought = helper.take()
                if brought is not None:
                    done[brought[0]] = brought[1]
            except Exception as error:  # it has ended, or failed: its work is done here
                self._lose(helper, str(error) or type(error).__name__)

    def _lose(self, helper: Helper, why: str) -> None:
        self.lost.append(f"process {helper.pid}: {why[:200]}; its work was done again")
        self.helpers = [each for each in self.helpers if each is not helper]
        helper.waits_for.clear()
        helper.end()

    def close(self) -> None:
        """End the other processes."""
        for helper in self.helpers:
            helper.end()
        self.helpers = []


def _end(link: socket.socket, process: subprocess.Popen[bytes]) -> None:
    link.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.2)
        return
    process.terminate()
    try:
        process.wait(_ENDING)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
