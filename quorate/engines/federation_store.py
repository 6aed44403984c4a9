"""What a federation's server keeps in its run's folder, so that a crash at any point costs it no round.

SQLite says what is so; large tensors stand in files that it names. A file is on the disk before a transaction names it,
and is removed after another one has let it go. A commit goes to the disk behind the program, and what is noted after it
only then: so what a crash may cost is the end of a round whose replies are all kept, and nothing that came after.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

from pydantic import TypeAdapter

from quorate.engines.federation_behind import Behind
from quorate.engines.federation_files import load_tree, save_tree, sync_file, sync_folder
from quorate.engines.federation_frames import Spec
from quorate.engines.federation_replies import StoredReply
from quorate.errors import RunError
from quorate.trees import Tree

_TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS asked (
    client INTEGER, round INTEGER, kind TEXT, id TEXT NOT NULL, state TEXT NOT NULL, PRIMARY KEY (client, round, kind));
CREATE TABLE IF NOT EXISTS replies (
    client INTEGER, round INTEGER, kind TEXT, id TEXT NOT NULL, numbers TEXT NOT NULL, specs TEXT NOT NULL,
    PRIMARY KEY (client, round, kind));
CREATE TABLE IF NOT EXISTS last (client INTEGER PRIMARY KEY, id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS told (client INTEGER PRIMARY KEY);
"""
_SPECS = TypeAdapter(tuple[Spec, ...])


@dataclass(frozen=True)
class OpenAsk:
    """A request that a client has not answered, as a server that has crashed remembers it."""

    client: int
    round: int
    kind: str
    id: str


@dataclass(frozen=True)
class Committed:
    """The last commit.

    Args:
        round: rounds done.
        state: the program's.
        facts: the engine's, JSON.
    """

    round: int
    state: Tree
    facts: Mapping[str, Any]


class Store:
    """Durable state of a server; all methods but `path` are for one thread at a time.

    Args:
        folder: made if it is missing.

    Raises:
        RunError: if it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._replies = folder, folder / "replies"
        self._replies.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(folder / "server.sqlite", check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_TABLES)
            with self._db:
                self._db.execute("INSERT OR IGNORE INTO facts VALUES ('run', ?)", (token_hex(16),))
            self.run = str(self._fact("run"))
        except sqlite3.DatabaseError as error:
            raise RunError(f"`{folder / 'server.sqlite'}` is damaged: {error}") from error
        self._behind = Behind()
        self._state = self._state_file()
        self._answered = {
            (int(client), int(round), str(kind))
            for client, round, kind in self._db.execute(
                "SELECT client, round, kind FROM asked WHERE state IN ('accepted', 'refused')"
            )
        }
        self._tidy()

    def settle(self) -> None:
        """Wait until all that was noted and committed is on the disk.

        Raises:
            OSError: if it can't be written.
        """
        self._behind.settle()

    def close(self) -> None:
        """Settle, and close the database."""
        try:
            self._behind.close()
        finally:
            self._db.close()

    def _settled(self) -> sqlite3.Connection:
        self.settle()
        return self._db

    def _fact(self, name: str) -> str | None:
        row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def _tidy(self) -> None:
        """Remove files that no row names: a crash has left them."""
        kept = {self.path(client, id).name for client, id in self._db.execute("SELECT client, id FROM replies")}
        for each in self.open_asks():
            path = self.path(each.client, each.id)
            kept |= {path.name, f"{path.name}.part"}
        for path in self._replies.iterdir():
            if path.name not in kept:
                path.unlink()
        for path in self._folder.glob("state-*"):
            if path.name != self._state:
                path.unlink()

    def _state_file(self) -> str | None:
        commit = self._fact("commit")
        return None if commit is None else str(json.loads(commit)["state"])

    def path(self, client: int, id: str) -> Path:
        """Return where the tensors of a reply are when they are all there; before, with ".part" added."""
        return self._replies / f"{client}-{id}"

    def committed(self) -> Committed | None:
        """Return the last commit; None if there is none.

        Raises:
            RunError: if its file is damaged.
        """
        self.settle()
        commit = self._fact("commit")
        if commit is None:
            return None
        told = json.loads(commit)
        return Committed(told["round"], load_tree(self._folder / told["state"]), told["facts"])

    def last(self) -> dict[int, str]:
        """Return the last request of each client whose reply was accepted."""
        return {int(client): str(id) for client, id in self._settled().execute("SELECT client, id FROM last")}

    def told(self) -> set[int]:
        """Return the clients that have heard that the run is over."""
        return {int(client) for (client,) in self._settled().execute("SELECT client FROM told")}

    @contextmanager
    def _unhurried(self) -> Iterator[None]:
        """Write without waiting for the disk, in one transaction; the next one that waits takes it along.

        It outlasts the end of the process at once. If the machine loses power before, clients find their requests
        forgotten, and are asked again.
        """
        self._db.execute("PRAGMA synchronous = NORMAL")
        try:
            self._db.execute("BEGIN")
            with self._db:
                yield
        finally:
            self._db.execute("PRAGMA synchronous = FULL")

    def tell(self, clients: Iterable[int]) -> None:
        """Note that clients have heard that the run is over."""
        self._settled().execute("BEGIN")
        with self._db:
            self._db.executemany("REPLACE INTO told VALUES (?)", [(client,) for client in clients])

    def open_asks(self) -> list[OpenAsk]:
        """Return the requests that are not answered, one of a client."""
        order = "SELECT client, round, kind, id FROM asked WHERE state = 'open' ORDER BY client, round"
        rows = self._settled().execute(order)
        return list({row[0]: OpenAsk(*row) for row in rows}.values())

    def asked(self, round: int) -> list[int]:
        """Return who was asked to train in a round, whatever has become of it."""
        order = "SELECT client FROM asked WHERE round = ? AND kind = 'train' ORDER BY client"
        rows = self._settled().execute(order, (round,))
        return [int(client) for (client,) in rows]

    def ask(self, clients: Sequence[int], round: int, kind: str, id: str) -> list[int]:
        """Note that clients are asked, and return those of them that have not answered this before."""
        new = [client for client in clients if (client, round, kind) not in self._answered]

        def note() -> None:
            with self._unhurried():
                for client in new:
                    self._db.execute("UPDATE asked SET state = 'over' WHERE client = ? AND state = 'open'", (client,))
                    self._db.execute("REPLACE INTO asked VALUES (?, ?, ?, ?, 'open')", (client, round, kind, id))

        self._behind.next(note)
        return new

    def refuse(self, client: int, round: int, kind: str) -> None:
        """Note that a client's reply was refused: it is not asked the same again."""
        self._answered.add((client, round, kind))
        self.close_asks([client], round, kind, "refused")

    def close_asks(self, clients: Iterable[int], round: int, kind: str | None, state: str) -> None:
        """Note what has become of requests: "gone" or "over"; of any kind if that is None."""
        rows = [(state, client, round, kind) for client in clients]
        order = "UPDATE asked SET state = ? WHERE client = ? AND round = ? AND kind = coalesce(?, kind)"

        def note() -> None:
            with self._unhurried():
                self._db.executemany(f"{order} AND state IN ('open', 'gone')", rows)

        self._behind.next(note)

    def accept(self, reply: StoredReply) -> None:
        """Keep a reply: when this returns, it outlasts a crash.

        Raises:
            RunError: if another one of the same client to the same request has been accepted.
        """
        numbers = json.dumps(dict(reply.numbers))
        specs = _SPECS.dump_json(reply.specs).decode()
        key = (reply.client, reply.round, reply.kind)
        self._settled().execute("BEGIN")
        try:
            with self._db:
                self._db.execute("INSERT INTO replies VALUES (?, ?, ?, ?, ?, ?)", (*key, reply.id, numbers, specs))
                self._db.execute("REPLACE INTO last VALUES (?, ?)", (reply.client, reply.id))
                self._db.execute("REPLACE INTO asked VALUES (?, ?, ?, ?, 'accepted')", (*key, reply.id))
        except sqlite3.IntegrityError as error:
            raise RunError(f"client {reply.client} has been counted in round {reply.round + 1} before") from error
        self._answered.add(key)

    def accepted(self) -> list[StoredReply]:
        """Return the replies that are kept, in the order of rounds and clients."""
        rows = self._settled().execute("SELECT * FROM replies ORDER BY round, client")
        return [
            StoredReply(
                client, round, kind, id, json.loads(numbers), _SPECS.validate_json(specs), self.path(client, id)
            )
            for client, round, kind, id, numbers, specs in rows
        ]

    def commit(self, round: int, state: Tree, used: Sequence[StoredReply], facts: Mapping[str, Any]) -> None:
        """Keep a state, and let go of the replies that went into it, at once; see `settle`.

        Nothing is read from the state's tensors after this returns.
        """
        before, name = self._state, f"state-{round:08d}-{token_hex(4)}.safetensors"
        self._state = name
        self._answered = {key for key in self._answered if key[1] >= round}
        save_tree(self._folder / name, state, durable=False)
        told = json.dumps({"round": round, "state": name, "facts": dict(facts)})

        def commit() -> None:
            sync_file(self._folder / name)
            sync_folder(self._folder)
            self._db.execute("BEGIN")
            with self._db:
                self._db.execute("REPLACE INTO facts VALUES ('commit', ?)", (told,))
                self._db.executemany(
                    "DELETE FROM replies WHERE client = ? AND round = ? AND kind = ?",
                    [(reply.client, reply.round, reply.kind) for reply in used],
                )
                self._db.execute("DELETE FROM asked WHERE round < ? AND state != 'open'", (round,))
            for reply in used:
                reply.path.unlink(missing_ok=True)
            if before is not None:
                (self._folder / before).unlink(missing_ok=True)

        self._behind.later(commit)

    def let_go(self) -> None:
        """Let go of all replies that no state has used: nothing will be made of them any more."""
        kept = self.accepted()
        self._settled().execute("BEGIN")
        with self._db:
            self._db.execute("DELETE FROM replies")
        for reply in kept:
            reply.path.unlink(missing_ok=True)
