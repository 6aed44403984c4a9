"""What a client keeps on its disk between rounds, and across crashes: memory, a finished reply, chunks of broadcasts.

A client's memory after a round stands beside its reply until the server has accepted it; then it takes the memory's
place, by one renaming. A crash before leaves the reply to be offered again, a crash after leaves nothing to do.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import torch
from pydantic import ValidationError

from quorate.engines.federation_blobs import Blob
from quorate.engines.federation_files import load_tree, save_blob, save_tree
from quorate.engines.federation_frames import Ask, Garbled, Offer
from quorate.trees import Tree, flatten


class Home:
    """The folder of a client in one run.

    Args:
        folder: made if it is missing; only this client's process uses it.
    """

    def __init__(self, folder: Path) -> None:
        self._memory, self._after = folder / "memory.safetensors", folder / "after.safetensors"
        self._offer, self.reply, self._chunks = folder / "offer.json", folder / "reply", folder / "chunks"
        self._chunks.mkdir(parents=True, exist_ok=True)

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

    def held(self) -> list[str]:
        """Return the names of the chunks that are kept."""
        return sorted(path.name for path in self._chunks.iterdir() if len(path.name) == 64)

    def chunk(self, sha256: str) -> bytes | None:
        """Return a chunk; None if it is not kept, or is damaged."""
        try:
            content = (self._chunks / sha256).read_bytes()
        except OSError:
            return None
        return content if hashlib.sha256(content).hexdigest() == sha256 else None

    def keep_chunk(self, sha256: str, content: bytes | memoryview) -> None:
        """Keep a chunk, whose bytes have that SHA-256."""
        write_now(self._chunks / sha256, content)

    def keep_only(self, chunks: set[str]) -> None:
        """Forget all other chunks."""
        for path in list(self._chunks.iterdir()):
            if path.name not in chunks:
                with suppress(OSError):
                    path.unlink()


def write_now(path: Path, content: bytes | memoryview) -> None:
    """Write a file that is whole or absent while the machine runs; what it holds is checked when it is read."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(content)
    os.replace(temporary, path)


class Damaged(Exception):
    """What was kept is not what it was."""


class Incoming:
    """A request whose chunks are not all there yet.

    Raises:
        Damaged: if a chunk that was kept is damaged; it is kept no more.
    """

    def __init__(self, ask: Ask, home: Home) -> None:
        self.ask, self._home = ask, home
        self.content = torch.empty(ask.bytes, dtype=torch.uint8)
        self._view = self.content.numpy().data if ask.bytes else memoryview(b"")
        self._places: dict[str, list[int]] = {}
        for number, sha256 in enumerate(ask.chunks):
            self._places.setdefault(sha256, []).append(number)
        home.keep_only(set(ask.chunks))
        held = set(home.held())
        self.missing = set(ask.chunks) - held
        for sha256 in held:
            content = home.chunk(sha256)
            if content is None:
                home.keep_only(held - {sha256})
                raise Damaged("a chunk that was kept is damaged")
            self._put(sha256, content)

    def _put(self, sha256: str, content: bytes | memoryview) -> None:
        for number in self._places[sha256]:
            start = number * self.ask.chunk
            if len(content) != min(self.ask.chunk, self.ask.bytes - start):
                raise Garbled(f"a chunk of {len(content)} bytes")
            self._view[start : start + len(content)] = content

    def take(self, sha256: str, content: memoryview) -> None:
        """Put a chunk where it belongs.

        Raises:
            Garbled: if its bytes are others than its name says.
        """
        if sha256 in self.missing:
            if hashlib.sha256(content).hexdigest() != sha256:
                raise Garbled("a chunk whose bytes have another SHA-256 than its name")
            self._put(sha256, content)
            self._home.keep_chunk(sha256, content)
            self.missing.discard(sha256)
