"""What a client keeps on its disk between rounds, and across crashes: memory, a finished reply, chunks of broadcasts.

A client's memory after a round stands beside its reply until the server has accepted it; then it takes the memory's
place, by one renaming. A crash before leaves the reply to be offered again, a crash after leaves nothing to do.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor

from quorate.engines.federation_blobs import Blob
from quorate.engines.federation_files import load_tree, mapped, save_blob, save_tree
from quorate.engines.federation_frames import Ask, Garbled, Offer
from quorate.trees import Tree, flatten

_JOURNAL = ".held"  # beside a broadcast's file: where in it which chunks are, a line each
_LINE = re.compile("([0-9]{1,16}) ([0-9]{1,8}) ([0-9a-f]{64})")  # first byte, bytes, SHA-256


@dataclass(frozen=True)
class Place:
    """Where a chunk of a broadcast is kept."""

    path: Path
    start: int
    count: int

    def read(self) -> bytes:
        """Return its bytes; fewer, or others, if the file is damaged."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.start)
                return file.read(self.count)
        except OSError:
            return b""


class Home:
    """The folder of a client in one run.

    Args:
        folder: made if it is missing; only this client's process uses it.
    """

    def __init__(self, folder: Path) -> None:
        self._memory, self._after = folder / "memory.safetensors", folder / "after.safetensors"
        self._offer, self.reply, self.chunks = folder / "offer.json", folder / "reply", folder / "chunks"
        self.chunks.mkdir(parents=True, exist_ok=True)

    def memory(self) -> Tree:
        """Return the client's memory; {} at first.

        Raises:
            RunError: if its file is damaged.
        """
        return load_tree(self._memory) if self._memory.exists() else {}

    def keep(self, offer: Offer, blob: Blob, after: Tree) -> None:
        """Keep a finished reply, and the memory that the client will have if it is accepted."""
        self.drop()
        save_blob(self.reply, blob)
        write_now(self._offer, offer.model_dump_json().encode())
        save_tree(self._after, after, durable=bool(flatten(after)))

    def offer(self) -> Offer | None:
        """Return the reply that is kept, if there is one and it is whole."""
        if not self._after.exists():
            return None
        try:
            offer = Offer.model_validate_json(self._offer.read_bytes())
            with self.reply.open("rb") as file:
                whole = hashlib.file_digest(file, "sha256").hexdigest() == offer.sha256
        except (OSError, ValidationError):
            whole = False
        if not whole:
            self.drop()
            return None
        return offer

    def accepted(self) -> None:
        """Take the memory after the kept reply for the client's memory."""
        if self._after.exists():
            os.replace(self._after, self._memory)
        self.drop()

    def drop(self) -> None:
        """Forget the kept reply."""
        for path in (self._after, self._offer, self.reply):
            path.unlink(missing_ok=True)

    def held(self) -> dict[str, Place]:
        """Return where the chunks that are kept are, by their SHA-256."""
        found = {}
        for journal in sorted(self.chunks.glob(f"*{_JOURNAL}")):
            for line in journal.read_text("ascii", "replace").splitlines():
                if match := _LINE.fullmatch(line):
                    found[match[3]] = Place(journal.with_suffix(""), int(match[1]), int(match[2]))
        return found

    def keep_only(self, broadcast: str) -> None:
        """Forget the chunks of all other broadcasts."""
        for path in list(self.chunks.iterdir()):
            if path.stem != broadcast:
                path.unlink(missing_ok=True)


def write_now(path: Path, content: bytes | memoryview) -> None:
    """Write a file that is whole or absent while the machine runs; what it holds is checked when it is read."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(content)
    os.replace(temporary, path)


class Damaged(Exception):
    """What was kept is not what it was."""


class Incoming:
    """A request whose chunks are not all there yet; they are put where they belong in a file as they come.

    Raises:
        Damaged: if a chunk that was kept is damaged; those of its broadcast are kept no more.
    """

    def __init__(self, ask: Ask, home: Home) -> None:
        self.ask = ask
        name = hashlib.sha256(f"{ask.bytes} {ask.chunk} {ask.chunks}".encode()).hexdigest()[:32]
        self._path = home.chunks / name
        self._journal = self._path.with_suffix(_JOURNAL)
        self._starts: dict[str, list[int]] = {}
        for number, sha256 in enumerate(ask.chunks):
            self._starts.setdefault(sha256, []).append(number * ask.chunk)
        held = home.held()
        self.missing = self._starts.keys() - held.keys()
        if not self._path.exists():
            self._path.touch()
            os.truncate(self._path, ask.bytes)
        for sha256 in self._starts.keys() & held.keys():
            content = held[sha256].read()
            if hashlib.sha256(content).hexdigest() != sha256:
                held[sha256].path.with_suffix(_JOURNAL).unlink()
                raise Damaged("a chunk that was kept is damaged")
            if held[sha256].path != self._path:
                self._put(sha256, content)
        home.keep_only(name)

    @property
    def content(self) -> Tensor:
        """The bytes of all chunks, (n,) of uint8, when none is missing; those on the disk stay if it is written to."""
        return mapped(self._path, self.ask.bytes)

    def _put(self, sha256: str, content: bytes | memoryview) -> None:
        starts = self._starts[sha256]
        if any(len(content) != min(self.ask.chunk, self.ask.bytes - start) for start in starts):
            raise Garbled(f"a chunk of {len(content)} bytes")
        with self._path.open("r+b") as file:
            for start in starts:
                file.seek(start)
                file.write(content)
        with self._journal.open("a") as file:
            file.write(f"{starts[0]} {len(content)} {sha256}\n")

    def take(self, sha256: str, content: memoryview) -> None:
        """Put a chunk where it belongs.

        Raises:
            Garbled: if its bytes are others than its name says.
        """
        if sha256 in self.missing:
            if hashlib.sha256(content).hexdigest() != sha256:
                raise Garbled("a chunk whose bytes have another SHA-256 than its name")
            self._put(sha256, content)
            self.missing.discard(sha256)
