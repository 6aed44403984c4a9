"""One synchronous round of a federation: until enough replies are accepted, time is up, or nobody is left."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from quorate.federated import Gone, Reply, Request, Server
from quorate.federated.model import Model
from quorate.programs._asking import Asking

_TRIES = 3  # a client is asked in one round at most so often


@dataclass(frozen=True)
class Wanted:
    """When a round ends.

    Args:
        cohort: replies that end it.
        over_selection: share of the missing replies that is asked in addition.
        quorum: replies without which it does not end.
        max_staleness: rounds that an accepted reply may be late.
    """

    cohort: int
    over_selection: float
    quorum: int
    max_staleness: int


@dataclass
class Round:
    """What has happened in a round.

    Args:
        number: from 0.
        replies: accepted ones of this round.
        late: accepted ones of rounds before.
        tries: how often who was asked.
        waiting: who was asked and may still reply.
        settled: who has replied, or is not to be asked again.
    """

    server: Server
    model: Model
    asking: Asking
    wanted: Wanted
    request: Request
    replies: list[Reply] = field(default_factory=list)
    late: list[Reply] = field(default_factory=list)
    tries: dict[int, int] = field(default_factory=dict)
    waiting: set[int] = field(default_factory=set)
    settled: set[int] = field(default_factory=set)

    @property
    def number(self) -> int:
        """Counted from 0."""
        return self.request.round

    def resume(self, asked: list[int], accepted: list[Reply]) -> None:
        """Go on with what was asked and accepted before a crash."""
        self.tries = dict.fromkeys(asked, 1)
        self.replies = [reply for reply in accepted if reply.round == self.number]
        self.late = [reply for reply in accepted if reply.round < self.number]
        self.settled = {reply.client for reply in self.replies}
        self.waiting = set(asked) - self.settled
        if self.waiting:
            self.asking.ask(sorted(self.waiting), self.request)

    async def run(self) -> None:
        """Let the round happen.

        Raises:
            NobodyLeft: if fewer than `quorum` replies can be had.
        """
        server, wanted = self.server, self.wanted
        until = server.now() + self.asking.deadline
        given_up = math.inf
        while len(self.replies) < wanted.cohort:
            if not self.waiting or server.now() >= until:
                if len(self.replies) >= wanted.quorum:
                    return
                if await self._ask_more():
                    given_up = math.inf
                    until = server.now() + self.asking.deadline
                else:  # nobody else is there, but those who are late may reply
                    given_up = min(given_up, server.now() + self.asking.patience)
                    until = min(server.now() + self.asking.deadline, given_up)
                    if server.now() >= given_up:
                        raise self.asking.nobody(self.number)
            found = await server.reply(until)
            if found is not None:
                self._take(found)
            elif server.now() < until:
                self.waiting.clear()

    async def _ask_more(self) -> bool:
        """Ask clients in place of those that are missing; False if nobody is there, but some may still reply."""
        server, missing = self.server, self.wanted.cohort - len(self.replies)
        now = server.now()
        until, ready = now + self.asking.patience, math.inf
        tired = {client for client, times in self.tries.items() if times >= _TRIES}
        patient = self.number == 0 and not self.tries
        while True:
            found = self.asking.candidates(self.settled | self.waiting | tired)
            fresh = [client for client in found if client not in self.tries]
            if found:
                ready = min(ready, server.now() + self.asking.gathering)
            if len(fresh) >= missing or (found and (server.now() >= ready or not patient)):
                break
            patient = True
            if not found and self.waiting:
                return False
            if not await server.arrivals(ready if found else until) and not found:
                raise self.asking.nobody(self.number)
        count = math.ceil(missing * (1 + self.wanted.over_selection))
        chosen = self.asking.choose(fresh or found, count, self.number, sum(self.tries.values()))
        for client in chosen:
            self.tries[client] = self.tries.get(client, 0) + 1
        self.waiting |= set(chosen)
        self.asking.ask(chosen, self.request)
        return True

    def _take(self, found: Reply | Gone) -> None:
        """Accept a reply, or refuse it; it may be of an earlier round."""
        current = found.round == self.number
        if isinstance(found, Gone):
            self.asking.gone(found)
            if current:
                self.waiting.discard(found.client)
                if found.hostile:
                    self.settled.add(found.client)
            return
        if current and found.client in self.tries and found.client not in self.settled:
            self.waiting.discard(found.client)
            self.settled.add(found.client)
            self._judge(found, self.replies)
        elif 0 < self.number - found.round <= self.wanted.max_staleness:
            self._judge(found, self.late)
        elif current:
            self.server.refuse(found, "it was not asked for")
        else:
            self.server.refuse(found, f"it is of round {found.round + 1}, and came in round {self.number + 1}")

    def _judge(self, reply: Reply, accepted: list[Reply]) -> None:
        flaw = self.model.flaw(reply)
        if flaw is not None:
            self.server.refuse(reply, flaw, hostile=True)
            return
        self.server.accept(reply)
        self.asking.answered(reply)
        accepted.append(reply)
