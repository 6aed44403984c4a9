"""A client of a federation as Flower starts it: a process for each message, which finds its memory on the disk.

Flower tells no client what has become of its reply. So each request says which reply was accepted last: if it is the
one that is kept here, the memory after it takes the memory's place; else it has not happened.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from quorate.engines.federation_frames import Failed, Garbled, Offer
from quorate.engines.federation_home import Home
from quorate.engines.federation_part import Part, worked_out
from quorate.engines.flower_messages import (
    PROTOCOL,
    Errand,
    Greeting,
    Present,
    read,
    record,
    require_fitting,
    tensors,
)
from quorate.errors import QuorateError
from quorate.federated import Request

_CHUNK = 1 << 20  # bytes that are hashed and written at once
_SAID = 2000  # characters of an error


@dataclass(frozen=True)
class FlowerClient:
    """One client, for the length of one message.

    Args:
        number: its own, from 0.
        part: how it answers.
        homes: the folder of what it keeps, by run; not of Flower's runs, of which a resumed federation has several.
    """

    number: int
    part: Part
    homes: Path

    def greet(self, content: Any) -> Any:
        """Return who this is, for a RecordDict that asks it.

        Raises:
            Garbled: if it asks something else.
        """
        read(content, (Greeting,))
        return record(
            Present(
                protocol=PROTOCOL,
                number=self.number,
                configuration=dict(self.part.configuration),
                facts=dict(self.part.facts),
            )
        )

    def work(self, content: Any) -> Any:
        """Return a reply, or why there is none, for a RecordDict with a request.

        Raises:
            Garbled: if it is no request.
        """
        header, given = read(content, (Errand,))
        errand = cast(Errand, header)
        with _alone(self.homes / errand.run / str(self.number)) as home:
            try:
                offer = self._offered(errand, given, home)
            except QuorateError as error:
                return record(Failed(id=errand.id, why=str(error)[:_SAID]))
            return record(offer, home.reply.read_bytes())

    def _offered(self, errand: Errand, given: bytes, home: Home) -> Offer:
        kept = home.offer()
        if kept is not None and kept.id == errand.id:
            return kept
        if kept is not None and kept.id == errand.last:
            home.accepted()
        try:
            require_fitting(errand.tensors, errand.bytes, given, self.part.limits(errand.what))
        except Garbled as error:
            raise Garbled(f"the server has sent {error.problem}", "start all with the same recipe") from error
        request = Request(errand.round, tensors(errand.tensors, given), errand.numbers, errand.what)
        return worked_out(self.part, home, errand.id, request, _CHUNK)


@contextmanager
def _alone(folder: Path) -> Iterator[Home]:
    """Open a client's folder while no other process uses it."""
    home = Home(folder)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield home
