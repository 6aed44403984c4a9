from __future__ import annotations

from quorate.federated.record import Rounds, read_rounds


def test_a_line_says_who_took_part_and_a_resumed_run_takes_back_later_ones(tmp_path):
    rounds = Rounds(tmp_path)
    rounds.asked([4, 2], 10)
    rounds.replied(7)
    rounds.accepted(4)
    rounds.gone(2, "it vanished")
    rounds.done(1, 2.5)
    rounds.asked([1, 3], 10)
    rounds.replied(7)
    rounds.refused(3, "NaN", hostile=True)
    rounds.late([1])
    rounds.done(2, 4.0)
    first, second = read_rounds(tmp_path)
    assert first == {
        "round": 1,
        "clock_seconds": 2.5,
        "asked": [2, 4],
        "accepted": [4],
        "refused": [],
        "gone": [{"client": 2, "why": "it vanished", "hostile": False}],
        "late": [],
        "bytes_up": 7,
        "bytes_down": 20,
    }
    assert second["refused"] == [{"client": 3, "why": "NaN", "hostile": True}]
    assert second["late"] == [1]
    Rounds(tmp_path, after=1).done(2, 9.0)
    assert [each["clock_seconds"] for each in read_rounds(tmp_path)] == [2.5, 9.0]


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Rounds().done(1, 0.0)
    assert list(tmp_path.iterdir()) == []
