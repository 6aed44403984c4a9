"""A Flower grid within one process, for tests: each node's ClientApp is called when its reply is pulled."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from quorate import flower_apps
from quorate.recipe import Recipe


class Broken(Exception):
    """The SuperLink is gone."""


class Grid:
    """Nodes 100, 101, ... are clients 0, 1, ...

    Args:
        breaks: the call for replies at which it breaks, if any does.
        change: what becomes of a client's reply.
        vanish: clients that are gone when they have been asked once.
    """

    def __init__(
        self,
        recipe: Recipe,
        homes: Path,
        breaks: int | None = None,
        change: Callable[[int, Any], Any] = lambda client, reply: reply,
        vanish: Iterable[int] = (),
    ) -> None:
        self._recipe, self._homes, self._breaks, self._change = recipe, homes, breaks, change
        self._vanish, self._gone = set(vanish), set[int]()
        self._nodes: dict[int, tuple[int, Recipe]] = {}
        self._sent: dict[str, Any] = {}
        self._count = self._pulled = 0
        for client in range(recipe.workers):
            self.add(100 + client, client)

    def add(self, node: int, client: int, recipe: Recipe | None = None) -> None:
        self._nodes[node] = client, recipe or self._recipe

    def get_node_ids(self) -> list[int]:
        return [node for node in self._nodes if node not in self._gone]

    def push_messages(self, messages: Iterable[Any]) -> list[str]:
        ids = []
        for message in messages:
            self._count += 1
            self._sent[str(self._count)] = message
            ids.append(str(self._count))
            node = message.metadata.dst_node_id
            if message.metadata.message_type == "train" and self._nodes[node][0] in self._vanish:
                self._gone.add(node)
        return ids

    def pull_messages(self, ids: Iterable[str]) -> list[Any]:
        """Return a reply to the last request first: what comes in which order must not matter."""
        waiting = [id for id in ids if id in self._sent]
        waiting = [id for id in waiting if self._sent[id].metadata.dst_node_id not in self._gone]
        if not waiting:
            return []
        self._pulled += 1
        if self._pulled == self._breaks:
            raise Broken
        id = waiting[-1]
        return [self._answer(id, self._sent.pop(id))]

    def _answer(self, id: str, message: Any) -> Any:
        client, recipe = self._nodes[message.metadata.dst_node_id]
        node = {"partition-id": client, "num-partitions": self._recipe.workers, "home": str(self._homes)}
        one = flower_apps.client(recipe, node)
        if message.metadata.message_type == "query":
            content = one.greet(message.content)
        else:
            content = self._change(client, one.work(message.content))
        metadata = SimpleNamespace(reply_to_message_id=id, src_node_id=message.metadata.dst_node_id)
        return SimpleNamespace(content=content, metadata=metadata, has_error=lambda: False)
