"""Replies to a federation's server whose tensors are in files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quorate.engines.federation_blobs import opened, places
from quorate.engines.federation_files import mapped, sync_file, sync_folder
from quorate.engines.federation_frames import Offer, Spec
from quorate.wire import Message


@dataclass(frozen=True)
class StoredReply:
    """A reply whose tensors are in a file, and are mapped into memory as often as they are asked for."""

    client: int
    round: int
    kind: str
    id: str
    numbers: Mapping[str, float]
    specs: tuple[Spec, ...]
    path: Path

    def message(self, name: str) -> Message:
        """See `quorate.federated.Reply`."""
        return opened(self.specs, mapped(self.path, places(self.specs)[1]))[name]

    @property
    def bytes(self) -> int:
        """The bytes of its tensors, as sent."""
        return sum(count for row in places(self.specs)[0] for _, count in row)


def completed(part: Path, path: Path) -> None:
    """Give a reply that is all there its name, on the disk."""
    sync_file(part)
    part.replace(path)
    sync_folder(path.parent)


def reply_of(client: int, offer: Offer, path: Path) -> StoredReply:
    """Return the reply that a client has offered and sent."""
    return StoredReply(client, offer.round, offer.what, offer.id, dict(offer.numbers), offer.tensors, path)
