"""Who sent what to whom and when, and how each worker spent its time.

Every engine writes one. Sums are always kept; single transfers only if asked for, because an adversary is a view of
them (`seen_by`), and the timeline holds the first few thousand intervals of the first few workers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quorate.errors import QuorateError

_TIMELINE_RANKS, _TIMELINE_INTERVALS = 64, 8_000
_RECENT = 16  # computations of a worker that a transfer is compared with, to tell what overlaps


@dataclass(frozen=True)
class Transfer:
    """One message on its way from `start` to `end` seconds."""

    src: int
    dst: int
    bytes: int
    start: float
    end: float


class Trace:
    """The record of one run.

    Args:
        size: number of workers.
        transfers: keep every single transfer in `transfers`.
    """

    def __init__(self, size: int, transfers: bool = False) -> None:
        self.size = size
        self.seconds = 0.0
        self.sent_bytes = [0] * size
        self.received_bytes = [0] * size
        self.sent_messages = [0] * size
        self.computing_seconds = [0.0] * size
        self.sending_seconds = [0.0] * size
        self.both_seconds = [0.0] * size
        """Seconds in which a worker was computing and sending at once."""
        self.ended = [0.0] * size
        self.away_seconds = [0.0] * size
        """Seconds in which a worker took no part, because it had crashed or not come yet."""
        self._computed: list[deque[tuple[float, float]]] = [deque(maxlen=_RECENT) for _ in range(size)]
        self._sent_until, self._computing_until = [0.0] * size, 0.0
        self.began = [0.0] * size
        """When each worker started, or went on from a checkpoint: where its timeline begins."""
        self.hosts: list[str | None] = [None] * size
        self.links: dict[tuple[int, int], list[int]] = {}
        self.ring = [0, 0]
        """Bytes and messages that every worker has passed to the next one in collectives; not in the lists above."""
        self.ring_seconds = 0.0
        """How long collectives were under way; not in the lists above."""
        self.intervals: list[tuple[int, str, float, float]] = []
        self.until = float("inf")
        self.transfers: list[Transfer] | None = [] if transfers else None

    @property
    def bytes(self) -> int:
        """All bytes sent so far, by all workers."""
        return sum(self.sent_bytes) + self.size * self.ring[0]

    def sent(self, src: int, dst: int, count: int, start: float, end: float, messages: int = 1) -> None:
        """Record one message of `count` bytes, or several that have so many together."""
        self.sent_bytes[src] += count
        self.received_bytes[dst] += count
        self.sent_messages[src] += messages
        link = self.links.setdefault((src, dst), [0, 0])
        link[0] += count
        link[1] += messages
        if self.transfers is not None:
            self.transfers.append(Transfer(src, dst, count, start, end))

    def collective(self, count: int, messages: int, start: float, end: float) -> None:
        """Record that every worker passed `count` bytes to the next one, round a ring."""
        if self.size == 1:
            return
        self.ring[0] += count
        self.ring[1] += messages
        if self.transfers is not None:
            following = [(rank, (rank + 1) % self.size) for rank in range(self.size)]
            self.transfers.extend(Transfer(src, dst, count, start, end) for src, dst in following)

    def spread(self, sizes: Sequence[int], start: float, end: float) -> None:
        """Record that every worker sent a message of its own size to every other one."""
        total, others = sum(sizes), self.size - 1
        for rank, size in enumerate(sizes):
            self.sent_bytes[rank] += others * size
            self.received_bytes[rank] += total - size
            self.sent_messages[rank] += others
            for dst in range(self.size) if self.size <= _TIMELINE_RANKS else ():
                if dst != rank:
                    link = self.links.setdefault((rank, dst), [0, 0])
                    link[0] += size
                    link[1] += 1
            if self.transfers is not None:
                self.transfers.extend(Transfer(rank, dst, size, start, end) for dst in range(self.size) if dst != rank)

    def busy(self, rank: int, kind: str, start: float, end: float) -> None:
        """Record that a worker was `computing` or `sending` from `start` to `end`."""
        if end <= start:
            return
        if kind == "computing":
            self.computing_seconds[rank] += end - start
            self._computed[rank].append((start, end))
            self._computing_until = max(self._computing_until, end)
        else:
            start = max(start, self._sent_until[rank])
            if end <= start:
                return
            self._sent_until[rank] = end
            self.sending_seconds[rank] += end - start
            self._note_both(rank, start, end)
        if rank < _TIMELINE_RANKS:
            self._draw(rank, kind, start, end)

    def _note_both(self, rank: int, start: float, end: float) -> None:
        self.both_seconds[rank] += sum(max(0.0, min(b, end) - max(a, start)) for a, b in self._computed[rank])

    def all_busy(self, start: float, end: float) -> None:
        """Record that all workers were sending, in collectives, from `start` to `end`."""
        if end > start and self.size > 1:
            self.ring_seconds += end - start
            if self._computing_until > start:
                for rank in range(self.size):
                    self._note_both(rank, start, end)
            for rank in range(min(self.size, _TIMELINE_RANKS)):
                self._draw(rank, "sending", start, end)

    def _draw(self, rank: int, kind: str, start: float, end: float) -> None:
        if start < self.until:
            if len(self.intervals) < _TIMELINE_INTERVALS:
                self.intervals.append((rank, kind, start, end))
            else:
                self.until = start

    def cut_short(self, rank: int, now: float) -> None:
        """Take back what a worker was to compute from `now` on, because it has stopped."""
        over = [(start, end) for start, end in self._computed[rank] if end > now]
        if not over:
            return
        self.computing_seconds[rank] -= sum(end - max(start, now) for start, end in over)
        kept = [(start, min(end, now)) for start, end in self._computed[rank] if start < now]
        self._computed[rank] = deque(kept, maxlen=_RECENT)
        self.intervals = [
            (who, kind, start, min(end, now)) if (who, kind) == (rank, "computing") else (who, kind, start, end)
            for who, kind, start, end in self.intervals
            if start < now or (who, kind) != (rank, "computing")
        ]

    def away(self, rank: int, start: float, end: float) -> None:
        """Record that a worker took no part from `start` to `end`."""
        if end > start:
            self.away_seconds[rank] += end - start
            if rank < _TIMELINE_RANKS:
                self._draw(rank, "away", start, end)
            self.ended[rank] = max(self.ended[rank], end)

    def end(self, rank: int, now: float) -> None:
        """Record when a worker's program has ended, or how far it has come."""
        self.ended[rank] = now
        self.seconds = max(self.seconds, now)

    def seen_by(self, who: int | str) -> list[Transfer]:
        """Return the transfers that a worker took part in, or, for "wire", all of them.

        Raises:
            QuorateError: if single transfers were not kept.
        """
        if self.transfers is None:
            raise QuorateError("the trace kept sums only", "ask for Trace(size, transfers=True)")
        return [each for each in self.transfers if who == "wire" or who in (each.src, each.dst)]

    def all_links(self) -> list[tuple[int, int, int, int]]:
        """Return (src, dst, bytes, messages) of every pair that has talked."""
        links = {pair: list(sums) for pair, sums in self.links.items()}
        if self.ring[1]:
            for rank in range(self.size):
                link = links.setdefault((rank, (rank + 1) % self.size), [0, 0])
                link[0] += self.ring[0]
                link[1] += self.ring[1]
        return [(src, dst, *sums) for (src, dst), sums in sorted(links.items())]  # type: ignore[misc]

    def summary(self) -> dict[str, Any]:
        """Return what `trace.json` holds. Until its end, a worker that did not compute or send was waiting."""
        passed, messages = self.ring
        workers = [
            {
                "rank": rank,
                "host": self.hosts[rank],
                "sent_bytes": self.sent_bytes[rank] + passed,
                "received_bytes": self.received_bytes[rank] + passed,
                "sent_messages": self.sent_messages[rank] + messages,
                "computing_seconds": self.computing_seconds[rank],
                "sending_seconds": self.sending_seconds[rank] + self.ring_seconds,
                "waiting_seconds": max(0.0, self.ended[rank] - self._occupied(rank)),
                "away_seconds": self.away_seconds[rank],
            }
            for rank in range(self.size)
        ]
        until = min(self.until, self.seconds)
        intervals = [[rank, kind, a, b] for rank, kind, a, b in self._with_waiting() if a < until]
        return {
            "size": self.size,
            "seconds": self.seconds,
            "workers": workers,
            "links": [list(link) for link in self.all_links()],
            "timeline": {"until": until, "intervals": intervals},
        }

    def _occupied(self, rank: int) -> float:
        sending = self.sending_seconds[rank] + self.ring_seconds
        return self.computing_seconds[rank] + sending - self.both_seconds[rank] + self.away_seconds[rank]

    def _with_waiting(self) -> list[tuple[int, str, float, float]]:
        gaps, free = [], dict(enumerate(self.began[:_TIMELINE_RANKS]))
        for rank, kind, start, end in sorted(self.intervals, key=lambda interval: interval[2]):
            if kind in ("computing", "away"):
                if start > free[rank]:
                    gaps.append((rank, "waiting", free[rank], start))
                free[rank] = end
        gaps += [(rank, "waiting", last, self.ended[rank]) for rank, last in free.items()]
        return self.intervals + [gap for gap in gaps if gap[3] > gap[2]]

    def state(self) -> dict[str, Any]:
        """Return the sums as JSON values, for a checkpoint; the timeline and single transfers are not kept."""
        return {
            "arrays": {name: list(getattr(self, name)) for name in _ARRAYS},
            "links": [[*pair, *sums] for pair, sums in self.links.items()],
            "ring": self.ring,
            "ring_seconds": self.ring_seconds,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from sums that `state` returned."""
        for name in _ARRAYS:
            setattr(self, name, list(state["arrays"][name]))
        self.links = {(src, dst): [count, messages] for src, dst, count, messages in state["links"]}
        self.ring = list(state["ring"])
        self.ring_seconds = state["ring_seconds"]
        self.seconds = max(self.ended)
        self.began = list(self.ended)


_ARRAYS = (
    *("sent_bytes", "received_bytes", "sent_messages"),
    *("computing_seconds", "sending_seconds", "both_seconds", "away_seconds", "ended"),
)
