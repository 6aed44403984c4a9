from __future__ import annotations

import io

from rich.console import Console

from quorate.cluster import Cluster, Exceptional
from quorate.codecs.top_k import TopK
from quorate.exchange import Exchange
from quorate.predict_rounds import _transfers, rounds_table
from quorate.programs.fed_buff import fed_buff
from quorate.programs.federated import federated
from tests.commands import call
from tests.engines.test_federation_simulator import SGD


def text_of(program, exchange=None, cluster=None):
    out = io.StringIO()
    console = Console(file=out, width=200)
    console.print(rounds_table(program, exchange or Exchange(), cluster or Cluster(), 50, 0))
    return out.getvalue()


def bound(program, **settings):
    from functools import partial

    return partial(program, optimizer=SGD, rounds=3, **settings)


def test_a_codec_shortens_what_is_said_up_only():
    plain, coded = text_of(bound(federated, cohort=5)), text_of(bound(federated, cohort=5), Exchange(TopK(0.01)))
    plain_row, coded_row = (each.splitlines()[-2].split() for each in (plain, coded))
    assert plain_row[:6] == ["10.0", "MB", "10.0", "MB", "10.0", "MB"]
    assert coded_row[:4] == plain_row[:4]
    assert coded_row[4:6] != plain_row[4:6]


def test_the_number_at_a_time_is_the_programs():
    assert "with 5 at a time" in text_of(bound(federated, cohort=5))
    assert "with 7 at a time" in text_of(bound(fed_buff, concurrency=7))


def test_the_servers_links_are_shared():
    links = {"uplink": [1e3, 1e9, 1e6], "downlink": [1e9, 1e9, 1e6], "latency": [0.1, 0.2, 0.3]}
    assert _transfers(links, 2, 1e6, 1e6, 4) == [1e6 / 0.25e6 + 1e3 + 0.8, 2 * 4 + 1.0]


def test_the_slowest_client_is_shown():
    slow = Cluster(node=(Exceptional(ranks=(3,), uplink=1e3),))
    assert text_of(bound(federated, cohort=5), cluster=slow) != text_of(bound(federated, cohort=5))


def test_check_shows_it(monkeypatch, capsys):
    assert call(monkeypatch, "check", "recipes/federated/stragglers.toml") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "13 of 100 clients are asked" in out
    assert "added to the next round" in out
    assert "sent down" in out
