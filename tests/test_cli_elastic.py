from __future__ import annotations

import pytest

from tests.commands import RECIPES, refusal


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("run", "--elastic"), "an elastic run is one on real processes\nhint: --workers 4 --elastic"),
        (("run", "--workers", 3, "--respawn"), "--minimum and --respawn are for elastic runs\nhint: "),
        (("run", "--workers", 4, "--elastic", "--minimum", 2), "it must be more than half"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(monkeypatch, capsys, words, says):
    command, *flags = words
    assert says in refusal(monkeypatch, capsys, command, RECIPES / "first_run.toml", *flags)


def test_a_wrong_address_is_refused(monkeypatch, capsys):
    assert refusal(monkeypatch, capsys, "join", "here") == (
        "`here` is no address of a run\nhint: HOST:PORT, as `quorate run --elastic` prints it"
    )


def test_an_address_where_nobody_listens_is_named(monkeypatch, capsys):
    assert "the coordinator at 127.0.0.1:1, which says who takes part, has ended" in refusal(
        monkeypatch, capsys, "join", "127.0.0.1:1"
    )
