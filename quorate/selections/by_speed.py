"""Clients that have been fast enough, all alike, and those of which nothing is known; then the next fastest.

It favours what fast clients have; `fed_buff`, or `partial = true`, keeps slow ones in.

Source: Nishio and Yonetani, "Client selection for federated learning with heterogeneous resources in mobile edge",
ICC 2019: as many clients as can reply before a deadline.
"""

from __future__ import annotations

from collections.abc import Sequence

from quorate.cluster import Seconds
from quorate.rand import Rand
from quorate.selections import Known
from quorate.selections.uniform import uniform


def by_speed(candidates: Sequence[int], count: int, rand: Rand, known: Known, *, within: Seconds) -> list[int]:
    """Choose among those whose last reply took no longer than `within` seconds.

    Args:
        within: seconds, e.g. the program's `deadline`.
    """
    fast = [client for client in candidates if known.seconds.get(client, 0.0) <= within]
    if len(fast) >= count:
        return uniform(fast, count, rand, known)
    slow = [client for client in candidates if known.seconds.get(client, 0.0) > within]
    return sorted([*fast, *sorted(slow, key=lambda client: (known.seconds[client], client))[: count - len(fast)]])
