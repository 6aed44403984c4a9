"""Who took part in each round of a federation: `rounds.jsonl` in the run's folder, one JSON object a round.

{"round": 1, "clock_seconds": 2.5, "asked": [3, 7], "accepted": [3], "refused": [{"client": 7, "why": "...", "hostile":
true}], "gone": [{"client", "why", "hostile"}], "late": [], "bytes_up": 10, "bytes_down": 20}

`round` counts from 1, as steps do. `late` are those who were asked in this round, or before, and whose replies were not
wanted any more. What happens between two commits belongs to the round that the second one ends.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quorate.files import write_atomically
from quorate.metrics_file import read_lines

FILE = "rounds.jsonl"


class Rounds:
    """Writes the file.

    Args:
        folder: the run's; None to keep nothing.
        after: rounds done when a resumed run goes on; lines of later ones are taken back.
    """

    def __init__(self, folder: Path | None = None, after: int = 0) -> None:
        self._path = None if folder is None else folder / FILE
        if self._path is not None:
            kept = [line for line in read_lines(self._path) if line["round"] <= after]
            write_atomically(self._path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._begin()

    def _begin(self) -> None:
        self._asked: list[int] = []
        self._accepted: list[int] = []
        self._late: list[int] = []
        self._refused: list[dict[str, Any]] = []
        self._gone: list[dict[str, Any]] = []
        self._up = self._down = 0

    def asked(self, clients: Sequence[int], size: int) -> None:
        """Take note that clients were asked, each by so many bytes."""
        self._asked += clients
        self._down += size * len(clients)

    def replied(self, size: int) -> None:
        """Take note that a reply of so many bytes came."""
        self._up += size

    def accepted(self, client: int) -> None:
        """Take note that a client's reply was accepted."""
        self._accepted.append(client)

    def refused(self, client: int, why: str, hostile: bool = False) -> None:
        """Take note that a client's reply was refused."""
        self._refused.append({"client": client, "why": why, "hostile": hostile})

    def gone(self, client: int, why: str, hostile: bool = False) -> None:
        """Take note that a client will not reply."""
        self._gone.append({"client": client, "why": why, "hostile": hostile})

    def late(self, clients: Sequence[int]) -> None:
        """Take note that replies of clients who were asked are not wanted any more."""
        self._late += clients

    def done(self, round: int, clock: float) -> None:
        """Write a round's line.

        Args:
            round: how many are done.
            clock: seconds.
        """
        line = {
            "round": round,
            "clock_seconds": clock,
            "asked": sorted(self._asked),
            "accepted": sorted(self._accepted),
            "refused": self._refused,
            "gone": self._gone,
            "late": sorted(self._late),
            "bytes_up": self._up,
            "bytes_down": self._down,
        }
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        self._begin()


def read_rounds(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's folder, in order."""
    return read_lines(folder / FILE)
