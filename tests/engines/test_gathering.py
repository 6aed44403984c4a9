from __future__ import annotations

from quorate.engines.gathering import _joined
from quorate.trace import Trace


def test_each_rank_s_own_record_is_taken_and_what_it_received_is_what_others_sent():
    parts = []
    for rank in range(2):
        trace = Trace(2)
        trace.hosts[rank] = f"host{rank}"
        trace.sent(rank, 1 - rank, 10 * (rank + 1), 0.0, 1.0)
        trace.busy(rank, "computing", 0.0, 1.0 + rank)
        trace.end(rank, 3.0 + rank)
        parts.append(trace.summary())
    joined = _joined(parts)
    assert (joined["size"], joined["seconds"]) == (2, 4.0)
    assert [worker["host"] for worker in joined["workers"]] == ["host0", "host1"]
    assert [worker["sent_bytes"] for worker in joined["workers"]] == [10, 20]
    assert [worker["received_bytes"] for worker in joined["workers"]] == [20, 10]
    assert [worker["computing_seconds"] for worker in joined["workers"]] == [1.0, 2.0]
    assert joined["links"] == [[0, 1, 10, 1], [1, 0, 20, 1]]
    assert {each[0] for each in joined["timeline"]["intervals"]} == {0, 1}
