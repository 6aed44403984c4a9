from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from quorate.engines.federation_frames import Garbled, Offer
from quorate.engines.federation_upload import Upload

PIECE = 1 << 17  # bytes: more than are written without a thread
CONTENT = os.urandom(5 * PIECE + 7)


def offer(content: bytes, start: int = 0) -> Offer:
    sha256 = hashlib.sha256(content).hexdigest()
    told = {"id": "0" * 32, "round": 0, "what": "train", "numbers": {}, "tensors": ()}
    return Offer(**told, bytes=len(content), sha256=sha256, start=start)


async def said(upload: Upload, stop: int) -> None:
    while upload.count < stop:
        piece = CONTENT[upload.count : min(stop, upload.count + PIECE)]
        await upload.take(upload.count, memoryview(piece), 1.0)


def test_pieces_are_on_the_disk_in_their_order(tmp_path: Path) -> None:
    async def main() -> None:
        upload = Upload(offer(CONTENT), tmp_path / "a.part", 0.0)
        await said(upload, len(CONTENT))
        assert upload.complete
        await upload.finish(tmp_path / "a")

    asyncio.run(main())
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert not (tmp_path / "a.part").exists()


def test_what_is_there_when_it_breaks_off_is_a_beginning_that_is_gone_on_from(tmp_path: Path) -> None:
    async def main() -> None:
        part = tmp_path / "a.part"
        upload = Upload(offer(CONTENT), part, 0.0)
        await said(upload, 3 * PIECE)
        upload.close()  # the last piece may be written or not
        held = part.stat().st_size
        assert held in (2 * PIECE, 3 * PIECE)
        assert part.read_bytes() == CONTENT[:held]
        await upload.take(3 * PIECE, memoryview(CONTENT[3 * PIECE : 4 * PIECE]), 1.0)
        with pytest.raises(Garbled, match=f"of which only {held} are here"):
            Upload(offer(CONTENT, held + 1), part, 0.0)
        again = Upload(offer(CONTENT, held), part, 0.0)
        await said(again, len(CONTENT))
        await again.finish(tmp_path / "a")

    asyncio.run(main())
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_other_bytes_than_declared_are_forgotten(tmp_path: Path) -> None:
    async def main() -> None:
        upload = Upload(offer(CONTENT[::-1]), tmp_path / "a.part", 0.0)
        await said(upload, len(CONTENT))
        with pytest.raises(Garbled, match="another SHA-256"):
            await upload.finish(tmp_path / "a")

    asyncio.run(main())
    assert not list(tmp_path.iterdir())


def test_what_is_dropped_while_it_is_written_leaves_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        upload = Upload(offer(CONTENT), tmp_path / "a.part", 0.0)
        await said(upload, 2 * PIECE)
        upload.drop()
        await upload.take(2 * PIECE, memoryview(CONTENT[2 * PIECE : 2 * PIECE + 9]), 1.0)

    asyncio.run(main())
    assert not list(tmp_path.iterdir())
