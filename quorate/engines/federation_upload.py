"""A reply on its way to the server: bytes go to the disk as they come, checked against what was declared."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from pathlib import Path

from quorate.engines.federation_frames import Garbled, Offer
from quorate.engines.federation_replies import completed

_FEW = 1 << 16  # bytes that are written sooner than handed to a thread


class Upload:
    """A reply that is not all there yet.

    Bytes are hashed and written in a thread while the next ones come.

    Args:
        offer: what the client has declared, found to be right before.
        part: the file; what it holds already is gone on from.

    Raises:
        Garbled: if the client would begin after what is there.
    """

    def __init__(self, offer: Offer, part: Path, now: float) -> None:
        self.offer, self.part, self.moved = offer, part, now
        held = part.stat().st_size if part.exists() else 0
        if offer.start > min(held, offer.bytes):
            raise Garbled(f"a reply from byte {offer.start} on, of which only {held} are here")
        self._file = part.open("ab")
        self._file.truncate(offer.start)
        self._digest = hashlib.sha256()
        with part.open("rb") as file:
            while block := file.read(1 << 20):
                self._digest.update(block)
        self.count = offer.start
        self._lock = threading.Lock()
        self._writing: asyncio.Future[None] | None = None

    @property
    def complete(self) -> bool:
        """Whether all declared bytes have come."""
        return self.count == self.offer.bytes

    async def take(self, offset: int, content: memoryview, now: float) -> None:
        """Add some bytes; wait for those before to be written.

        Raises:
            Garbled: if they do not follow the last ones, or are more than declared.
        """
        if offset != self.count or not content:
            raise Garbled(f"{len(content)} bytes of a reply from byte {offset} on, though byte {self.count} is next")
        if self.count + len(content) > self.offer.bytes:
            raise Garbled(f"more than the {self.offer.bytes} bytes of a reply that it had declared")
        self.count, self.moved = self.count + len(content), now
        await self._written()
        if len(content) < _FEW:
            self._put(content)
        else:
            self._writing = asyncio.get_running_loop().run_in_executor(None, self._put, content)

    async def _written(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing

    def _put(self, content: memoryview) -> None:
        with self._lock:
            if not self._file.closed:
                self._digest.update(content)
                self._file.write(content)

    async def finish(self, path: Path) -> None:
        """Check all bytes, and give the file its name, on the disk.

        Raises:
            Garbled: if they are not those that were declared; they are forgotten.
        """
        try:
            await self._written()
        finally:
            self.close()
        if self._digest.hexdigest() != self.offer.sha256:
            self.drop()
            raise Garbled("a reply whose bytes have another SHA-256 than it had declared")
        await asyncio.to_thread(completed, self.part, path)

    def close(self) -> None:
        """Keep what is there for the client to go on from."""
        with self._lock:
            self._file.close()

    def drop(self) -> None:
        """Forget what is there."""
        self.close()
        self.part.unlink(missing_ok=True)
