"""The end of a federation's run, as its clients hear of it.

Who has heard is kept, so that a server that is killed meanwhile, and started again, goes on with those who have not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from quorate.engines.federation_desk import Desk, Peer, Rules
from quorate.engines.federation_frames import End, Refusal
from quorate.engines.federation_reception import Shown, listening
from quorate.engines.federation_store import Store
from quorate.settings import FederationSettings

_MOMENT = 2.0  # seconds for which clients that were here and are away may come back
_HEARING = 10.0  # seconds for which those that are here may take to hear it
_POLL = 0.05  # seconds


async def farewell(
    desk: Desk, store: Store, measures: Mapping[str, float | None], settings: FederationSettings
) -> None:
    """Tell clients that the run is over.

    Those that are away may come back for a moment; those that took part before the server was started, and were not
    here since, for `homecoming` seconds from its start.

    Args:
        measures: of the final model.
        settings: the recipe's.
    """
    began = time.monotonic()
    heard, told, took_part = store.told(), set[int](), store.last().keys()

    def awaited(peer: Peer, now: float) -> bool:
        if peer.link is not None:
            return now < began + _HEARING
        if peer.number in heard or peer.offences >= settings.offences:
            return False
        if peer.seen is None:
            return peer.number in took_part and now < peer.away_since + settings.homecoming
        return now < began + _MOMENT

    while True:
        for peer in desk.peers:
            if peer.link is not None and peer.number not in told:
                peer.link.say(End(measures=dict(measures)))
                told.add(peer.number)
        gone = {peer.number for peer in desk.peers if peer.link is None and peer.number in told} - heard
        if gone:
            store.tell(gone)
            heard |= gone
        now = time.monotonic()
        if not any(awaited(peer, now) for peer in desk.peers):
            break
        await asyncio.sleep(_POLL)
    for peer in desk.peers:
        if peer.link is not None:
            peer.link.close(Refusal(why="the run is over", final=True))


async def tell_the_rest(
    folder: Path,
    size: int,
    rules: Rules,
    shown: Shown,
    address: str,
    measures: Mapping[str, float | None],
    listens: Callable[[int], None],
) -> None:
    """Listen for the clients of a finished run that have not heard of its end, if there are any.

    Args:
        folder: of the store.
        size: how many clients there may be.
        rules: of which run is looked up.
        shown: by the server.
        address: HOST:PORT.
        measures: of the final model.
        listens: is told the port.
    """
    with closing(Store(folder)) as store:
        last = store.last()
        if not last.keys() - store.told():
            return
        rules = replace(rules, run=store.run)
        desk = Desk(size, rules, store.path)
        for client, id in last.items():
            desk.peers[client].last = id
        async with listening(desk, shown, rules, address) as port:
            listens(port)
            rules.told(f"the run is finished; clients may come for {rules.settings.homecoming:g} seconds to hear it")
            await farewell(desk, store, measures, rules.settings)
