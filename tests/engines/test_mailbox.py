from __future__ import annotations

import threading

import pytest
import torch

from quorate.engines.mailbox import Mailbox
from quorate.errors import QuorateError
from quorate.node import Departed
from quorate.wire import Ragged

LIKE = (torch.zeros(2),)


def message(value):
    return (torch.full((2,), float(value)),)


def test_gives_out_by_tag_and_sender_in_order():
    box = Mailbox()
    for src, tag, value in [(1, 5, 0), (2, 5, 1), (1, 6, 2), (1, 5, 3)]:
        box.put(src, tag, message(value))
    taken = [box.take(*asked, LIKE, 0) for asked in [(2, 5), (None, 5), (None, 6), (1, 5), (None, 5)]]
    assert [each and (each[0], float(each[1][0][0])) for each in taken] == [(2, 1), (1, 0), (1, 2), (1, 3), None]


def test_a_message_is_waited_for():
    box = Mailbox()
    threading.Timer(0.05, box.put, (3, 1, message(7))).start()
    assert box.take(None, 1, LIKE, 10.0)[0] == 3


def test_who_has_left_is_told_once_for_each_tag_and_always_to_who_waits_for_it():
    box = Mailbox()
    box.put(2, 1, message(0))
    box.gone(2, "it was killed")
    box.gone(2, "another reason")
    assert box.take(None, 1, LIKE, 0)[0] == 2
    for tag in (1, 4):
        with pytest.raises(Departed, match="rank 2 has left: it was killed") as error:
            box.take(None, tag, LIKE, 0)
        assert error.value.rank == 2
        assert box.take(None, tag, LIKE, 0) is None
    for _ in range(2):
        with pytest.raises(Departed):
            box.take(2, 1, LIKE, 0)
    assert box.take(1, 1, LIKE, 0) is None


def test_what_nobody_expects_is_refused_when_it_is_waited_for():
    box = Mailbox()
    box.expect(None, 1, 77, LIKE)
    receiver = threading.Thread(target=box.like, args=(2, 1, 78), daemon=True)
    receiver.start()
    assert box.take(3, 1, LIKE, 0.05) is None
    with pytest.raises(QuorateError, match=r"expected float32\[2\] from rank 2, but was sent something else"):
        box.take(None, 1, LIKE, 10.0)
    box.expect(2, 1, 78, (torch.zeros(3),))
    receiver.join(10.0)
    assert not receiver.is_alive()
    assert box.take(None, 1, LIKE, 0) is None


def ragged(rows, dtype=torch.float32):
    return Ragged((torch.empty(rows, dtype=dtype, device="meta"),))


def test_of_ragged_messages_the_longest_that_is_expected_may_come():
    box = Mailbox()
    for rows in (10, 500, 3):
        box.expect(None, 1, 77, ragged(rows))
    assert [len(tensor) for tensor in box.like(2, 1, 77, [500, 0, 0])] == [500]
    box.expect(2, 1, 77, ragged(0))
    assert [len(tensor) for tensor in box.like(2, 1, 77, [10**6])] == [0]
    assert len(box.like(3, 1, 77, [500])[0]) == 500


def test_more_rows_than_are_expected_wait_until_they_are_and_are_refused_if_they_are_not():
    box = Mailbox()
    box.expect(2, 1, 77, ragged(10))
    found = []
    receiver = threading.Thread(target=lambda: found.append(box.like(2, 1, 77, [11])), daemon=True)
    receiver.start()
    box.put(2, 1, Ragged((torch.zeros(4),)))
    assert box.take(2, 1, ragged(10), 0)[0] == 2
    with pytest.raises(QuorateError, match=r"rank 2 sent float32\[\*\] with \[11\] rows, but there are at most \[10\]"):
        box.take(2, 1, ragged(10), 10.0)
    box.expect(2, 1, 77, ragged(11))
    receiver.join(10.0)
    assert len(found[0][0]) == 11
    assert box.take(2, 1, ragged(11), 0) is None


@pytest.mark.parametrize(
    ("message", "like", "says"),
    [
        ((torch.zeros(3),), (torch.zeros(2),), r"expected float32\[2\] from rank 1, but was sent float32\[3\]"),
        ((torch.zeros(2).double(),), (torch.zeros(2),), "but was sent float64"),
        ((torch.zeros(2), torch.zeros(2)), (torch.zeros(2),), "but was sent float32"),
        (Ragged((torch.zeros(2),)), (torch.zeros(2),), "but was sent float32"),
        (Ragged((torch.zeros(2, 2),)), ragged(2), r"expected float32\[\*\] from rank 1, but was sent float32\[\*, 2\]"),
        (
            Ragged((torch.zeros(3),)),
            ragged(2),
            r"rank 1 sent float32\[\*\] with \[3\] rows, but there are at most \[2\]",
        ),
    ],
)
def test_a_message_that_is_expected_at_other_times_is_refused(message, like, says):
    box = Mailbox()
    box.put(1, 1, message)
    with pytest.raises(QuorateError, match=says):
        box.take(1, 1, like, 0)


def test_a_closed_box_lets_the_threads_go():
    box, found = Mailbox(), []
    receiver = threading.Thread(target=lambda: found.append(box.like(2, 1, 78)), daemon=True)
    receiver.start()
    box.close()
    receiver.join(10.0)
    assert found == [None]


def test_who_has_ended_is_not_waited_for_alone():
    box = Mailbox()
    box.put(2, 1, message(0))
    box.ended(2)
    assert box.take(2, 1, LIKE, 0)[0] == 2
    with pytest.raises(Departed, match="rank 2 has left: its program has ended"):
        box.take(2, 1, LIKE, 10.0)
    assert box.take(None, 1, LIKE, 0) is None
    assert box.take(3, 1, LIKE, 0) is None


def test_what_is_expected_takes_no_memory():
    box = Mailbox()
    box.expect(1, 1, 10, (torch.zeros(1000),))
    assert box.likes(1)[1, 10][0].is_meta


def test_room_is_known_by_peer():
    box = Mailbox()
    box.expect(None, 1, 10, LIKE)
    box.expect(2, 3, 30, LIKE)
    assert box.likes(1).keys() == {(1, 10)}
    assert box.likes(2).keys() == {(1, 10), (3, 30)}
