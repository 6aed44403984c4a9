"""A reply on its way to the server: bytes go to the disk as they come, checked against what was declared."""

from __future__ import annotations

import hashlib
from pathlib import Path

from quorate.engines.federation_frames import Garbled, Offer


class Upload:
    """A reply that is not all there yet.

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

    @property
    def complete(self) -> bool:
        """Whether all declared bytes are there."""
        return self.count == self.offer.bytes

    def take(self, offset: int, content: memoryview, now: float) -> None:
        """Add some bytes.

        Raises:
            Garbled: if they do not follow the last ones, or are more than declared.
        """
        if offset != self.count or not content:
            raise Garbled(f"{len(content)} bytes of a reply from byte {offset} on, though byte {self.count} is next")
        if self.count + len(content) > self.offer.bytes:
            raise Garbled(f"more than the {self.offer.bytes} bytes of a reply that it had declared")
        self._file.write(content)
        self._digest.update(content)
        self.count, self.moved = self.count + len(content), now

    def finish(self) -> None:
        """Check all bytes.

        Raises:
            Garbled: if they are not those that were declared; they are forgotten.
        """
        self._file.close()
        if self._digest.hexdigest() != self.offer.sha256:
            self.drop()
            raise Garbled("a reply whose bytes have another SHA-256 than it had declared")

    def close(self) -> None:
        """Keep what is there for the client to go on from."""
        self._file.close()

    def drop(self) -> None:
        """Forget what is there."""
        self._file.close()
        self.part.unlink(missing_ok=True)
