"""The nodes of a Flower grid: which clients they are, which are there, and what they have been asked."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from flwr.app import Message

from quorate.engines.federation_frames import Failed, Garbled, Offer
from quorate.engines.federation_replies import StoredReply, completed, reply_of
from quorate.engines.flower_messages import PROTOCOL, Errand, Greeting, Present, read, record, require_fitting
from quorate.federated import Gone
from quorate.settings import FederationSettings
from quorate.wire import Message as Tensors

_LOOK = 1.0  # seconds between two looks at who is there
_SHY = 30.0  # seconds after which a node that has not said who it is is asked again
_SAID = 300  # characters of an error


@dataclass(frozen=True)
class Bounds:
    """What nodes are held to.

    Args:
        configuration: hashes of the recipe's parts, by key.
        limits: tensors that replies may have, at most, by the kind of request.
        settings: how long what may take.
    """

    configuration: Mapping[str, str]
    limits: Callable[[str], Mapping[str, Tensors]]
    settings: FederationSettings


@dataclass
class Job:
    """A request to one client, until its reply has been given to the program."""

    client: int
    errand: Errand
    content: bytes
    since: float = 0.0
    message: str | None = None
    node: int | None = None
    over: bool = False


class Nodes:
    """Who is there, and at what.

    Args:
        grid: Flower's.
        size: how many clients there may be.
        path: where the tensors of a client's reply of an id go.
        told: is told what happens, in words.
    """

    def __init__(
        self, grid: Any, bounds: Bounds, size: int, path: Callable[[int, str], Path], told: Callable[[str], None]
    ) -> None:
        self._grid, self._bounds, self._size, self._path, self._told = grid, bounds, size, path, told
        self.jobs: dict[int, Job] = {}
        self.inbox: deque[StoredReply | Gone] = deque()
        self.facts: dict[int, Mapping[str, float]] = {}
        self._node: dict[int, int] = {}
        self._seen: dict[int, float] = {}
        self._greeted: dict[str, int] = {}
        self._ask_again: dict[int, float] = {}
        self._began = time.monotonic()
        self._looked = -_LOOK

    def present(self) -> list[int]:
        """Return the clients that could be asked, ascending."""
        return sorted(client for client in self._node if self._here(client) and client not in self.jobs)

    def _here(self, client: int) -> bool:
        node = self._node.get(client)
        return node is not None and self._seen.get(node, -1.0) >= self._looked

    def assign(self, jobs: Sequence[Job]) -> None:
        """Ask clients; those that are not there yet, when they come."""
        for job in jobs:
            job.since = time.monotonic()
            self.jobs[job.client] = job
        self._push()

    def drop(self, client: int, round: int) -> bool:
        """Forget a request of a round; False if there is none."""
        job = self.jobs.get(client)
        if job is None or job.errand.round != round or job.over:
            return False
        del self.jobs[client]
        return True

    def look(self) -> None:
        """See who is there, greet those that are new, and take what has come."""
        now = time.monotonic()
        if now - self._looked >= _LOOK:
            self._looked = now
            self._seen |= dict.fromkeys(self._grid.get_node_ids(), now)
            self._greet(now)
        self._push()
        under_way = {job.message: job for job in self.jobs.values() if job.message is not None and not job.over}
        if under_way or self._greeted:
            for message in self._grid.pull_messages([*under_way, *self._greeted]):
                id = message.metadata.reply_to_message_id
                if id in self._greeted:
                    self._introduced(self._greeted.pop(id), message, now)
                elif id in under_way:
                    self._arrived(under_way.pop(id), message)
        self._give_up(now)

    def _greet(self, now: float) -> None:
        known = {*self._node.values(), *self._greeted.values()}
        new = [
            node
            for node, seen in self._seen.items()
            if seen >= now and node not in known and self._ask_again.get(node, 0.0) <= now
        ]
        self._greeted = {id: node for id, node in self._greeted.items() if self._seen[node] >= now - _SHY}
        content = record(Greeting(protocol=PROTOCOL))
        messages = [Message(content, dst_node_id=node, message_type="query") for node in new]
        for node, id in zip(new, self._grid.push_messages(messages) if messages else [], strict=False):
            if id:
                self._greeted[id] = node

    def _introduced(self, node: int, message: Any, now: float) -> None:
        flaw: str | None = None
        try:
            if message.has_error():
                flaw = f"it could not say who it is: {_reason(message)}"
            else:
                header = cast(Present, read(message.content, (Present,))[0])
                flaw = self._misfit(node, header)
        except Garbled as error:
            flaw = f"it has sent {error.problem}"
        if flaw is not None:
            self._ask_again[node] = now + _SHY
            self._told(f"node {node} takes no part: {flaw}")
            return
        self._node[header.number], self.facts[header.number] = node, dict(header.facts)
        self._told(f"node {node} is client {header.number}")

    def _misfit(self, node: int, header: Present) -> str | None:
        own = self._bounds.configuration
        if header.protocol != PROTOCOL:
            return f"it speaks version {header.protocol} of the protocol, not {PROTOCOL}"
        differ = [key for key in sorted({*own, *header.configuration}) if own.get(key) != header.configuration.get(key)]
        if differ:
            return f"its recipe differs in {', '.join(differ)}"
        if header.number >= self._size:
            return f"it says that it is client {header.number}, but there are {self._size}"
        if header.number in self._node and self._node[header.number] != node and self._here(header.number):
            return f"it says that it is client {header.number}, as node {self._node[header.number]} has said before"
        return None

    def _push(self) -> None:
        due = [job for job in self.jobs.values() if job.message is None and not job.over and self._here(job.client)]
        if not due:
            return
        answer = self._bounds.settings.answer
        messages = [
            Message(
                record(job.errand, job.content), dst_node_id=self._node[job.client], message_type="train", ttl=answer
            )
            for job in due
        ]
        pushed = list(self._grid.push_messages(messages))
        for place, job in enumerate(due):
            job.message, job.node = pushed[place] if place < len(pushed) else None, self._node[job.client]
            if not job.message:
                self._gone(job, "Flower did not take the message for it")

    def _arrived(self, job: Job, message: Any) -> None:
        if message.has_error():
            self._gone(job, _reason(message))
            return
        errand = job.errand
        try:
            header, content = read(message.content, (Offer, Failed))
            if isinstance(header, Failed):
                self._gone(job, f"it failed: {header.why}")
                return
            offer = cast(Offer, header)
            if (offer.id, offer.round, offer.what) != (errand.id, errand.round, errand.what):
                raise Garbled(f"a reply to round {offer.round + 1}, not to what it was asked")
            require_fitting(offer.tensors, offer.bytes, content, self._bounds.limits(errand.what))
        except Garbled as error:
            self._gone(job, f"it has sent {error.problem}", hostile=True)
            return
        path = self._path(job.client, offer.id)
        part = path.with_name(f"{path.name}.part")
        part.write_bytes(content)
        completed(part, path)
        job.over = True
        self.inbox.append(reply_of(job.client, offer, path))

    def _give_up(self, now: float) -> None:
        settings = self._bounds.settings
        for job in self.jobs.values():
            if job.over:
                continue
            node = self._node.get(job.client) if job.node is None else job.node
            grace = settings.homecoming if node is None else settings.absence
            seen = self._began if node is None else self._seen[node]
            if seen < self._looked and now - max(seen, job.since) > grace:
                self._gone(job, f"it was away for {grace:g} seconds")
            elif now - job.since > settings.answer:
                self._gone(job, f"it has not answered for {settings.answer:g} seconds")

    def _gone(self, job: Job, why: str, hostile: bool = False) -> None:
        job.over = True
        self.inbox.append(Gone(job.client, job.errand.round, why[:_SAID], hostile))


def _reason(message: Any) -> str:
    return f"Flower says: {str(message.error.reason or message.error.code)[-_SAID:]}"
