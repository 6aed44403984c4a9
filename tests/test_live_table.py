from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from quorate import live_table
from quorate.engines.federation_status import ClientStatus, Status
from quorate.errors import RunError


def client(number=0, name="one", state="waiting", **more):
    facts = {"seen": 1.0, "rounds": 2, "bytes_up": 1500, "bytes_down": 2_000_000, "offences": 0}
    return ClientStatus(number, name, state, **(facts | more))


def status(*clients, state="running", **more):
    facts = {"run": "runs/a", "round": 3, "rounds": 9, "seconds": 200.0, "eta": 7500.0, "accuracy": 0.51234}
    return Status(state=state, clients=clients, **(facts | more))


def drawn(thing, width=200):
    file = io.StringIO()
    Console(file=file, width=width).print(thing)
    return file.getvalue()


@pytest.mark.parametrize(
    ("count", "says"),
    [
        (0.2, "0 s"),
        (59.7, "1 min"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (86400 * 4 + 3 * 3600, "4 d 3 h"),
        (None, "-"),
    ],
)
def test_durations_are_said_as_people_say_them(count, says):
    assert live_table.seconds(count) == says


@given(count=st.integers(0, 10**15))
def test_a_size_is_within_a_tenth_of_a_percent_or_its_last_digit(count):
    number, unit = live_table.size(count).split()
    factor = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    assert abs(float(number) * factor - count) <= 0.051 * factor


def test_a_table_says_how_the_run_and_its_clients_are():
    text = drawn(live_table.whole(status(client(0, "one", "asked"), client(1, "two", "never seen", seen=None))))
    for words in ("3 of 9 done", "1 at work, 1 present, of 2", "0.5123", "3.0 kB up, 4.0 MB down", "2 h 5 min left"):
        assert words in text
    assert text.index("one") < text.index("two")
    assert "never" in text.splitlines()[-1]


@given(states=st.lists(st.sampled_from(["away", "waiting", "asked", "sending", "never seen", "shut out"]), max_size=20))
def test_those_at_work_come_first_and_all_are_counted(states):
    table = live_table.clients_table(
        status(*(client(number, "x", state) for number, state in enumerate(states))), most=5
    )
    shown = [line.split()[2] for line in drawn(table).splitlines()[1:6]]
    assert len(shown) == min(5, len(states))
    working = sum(state in ("asked", "sending") for state in states)
    assert all(state in ("asked", "sending") for state in shown[: min(5, working)])
    assert (f"and {len(states) - 5} more" in drawn(table)) == (len(states) > 5)


def test_names_can_not_draw_on_the_terminal():
    text = drawn(live_table.clients_table(status(client(name="\x1b[2J[bold]evil[/bold]"))))
    assert "\x1b" not in text
    assert "?[2J[bold]evil[/bold]" in text


def test_watching_ends_with_the_run_or_the_server():
    answers = iter([status(), status(state="over")])
    console = Console(file=io.StringIO(), width=100)
    live_table.watch(lambda: next(answers), console, every=0)
    assert next(answers, None) is None

    def gone():
        raise RunError("no server answers")

    with pytest.raises(RunError, match="no server answers"):
        live_table.watch(gone, console, every=0)


def test_rounds_show_evaluations_and_the_time_left():
    clock = iter([0.0, 1.0, 2.0, 3.0, 4.0])
    rounds = live_table.Rounds(10, 5, now=lambda: next(clock))
    for number, accuracy in ((1, {}), (2, {"accuracy": 0.5}), (3, {"accuracy": 0.5}), (4, {"accuracy": 0.75})):
        rounds.told(number, {**accuracy, "sent": 1000.0, "received": 3000.0 * number})
    lines = drawn(rounds).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["2/10", "4/10"]
    assert "accuracy 0.5000" in lines[1]
    assert lines[2].split()[1:] == ["5", "accuracy", "0.7500", "1.0", "kB", "12.0", "kB", "6", "s"]


def test_a_resumed_run_judges_the_time_left_by_its_own_rounds():
    clock = iter([0.0, 100.0, 102.0])
    rounds = live_table.Rounds(60, 5, now=lambda: next(clock))
    for number in (50, 51):
        rounds.told(number, {})
    assert "18 s" in drawn(rounds)


def test_nothing_is_drawn_for_nobody():
    file = io.StringIO()
    with live_table.rounds_table(3, 1, Console(file=file), show=False) as progress:
        assert progress is None
    assert file.getvalue() == ""
