from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from quorate.aggregators.mean import mean
from quorate.codecs.chain import Chain
from quorate.codecs.error_feedback import ErrorFeedback
from quorate.codecs.identity import Identity
from quorate.codecs.int8 import Int8
from quorate.codecs.power_sgd import PowerSgd
from quorate.codecs.top_k import TopK
from quorate.collectives.ring import ring
from quorate.errors import RecipeError
from quorate.exchange import Exchange
from quorate.sparse_collectives.tree import tree
from quorate.spoken import codec_of, exchange_of, require_meetings

HERE = Path()
TABLES = {name: {"name": name} for name in ("error_feedback", "top_k", "int8", "identity")}


@pytest.mark.parametrize(
    ("names", "codec"),
    [
        ([], Identity()),
        (["top_k"], TopK()),
        (["top_k", "int8"], Chain((TopK(), Int8()))),
        (["error_feedback", "top_k"], ErrorFeedback(TopK())),
        (["error_feedback", "top_k", "int8"], ErrorFeedback(Chain((TopK(), Int8())))),
        (["identity", "error_feedback", "int8"], Chain((Identity(), ErrorFeedback(Int8())))),
    ],
)
def test_tables_are_codecs_in_their_order_and_one_about_others_takes_all_that_follow(names, codec):
    assert codec_of("codec", [TABLES[name] for name in names], HERE) == codec


def test_a_codec_that_is_switched_off_is_none():
    assert codec_of("codec", [{"name": "adaptive", "enabled": False}], HERE) == Identity()


@pytest.mark.parametrize("name", ["top_k", "random_k", "gaussian_k", "sampled_k", "redsync", "dgc_sample"])
@pytest.mark.parametrize("ratio", [0, -1, 1.5])
def test_a_ratio_that_is_no_part_is_refused_with_one_that_can_be_typed_in(name, ratio):
    with pytest.raises(RecipeError, match=rf"\[codec\] `ratio`: input should be .*, got {ratio}") as error:
        codec_of("codec", [{"name": name, "ratio": ratio}], HERE)
    assert error.value.hint == "ratio = 0.001"
    assert codec_of("codec", [{"name": name, **tomllib.loads(error.value.hint)}], HERE).ratio == 0.001


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        (
            [{"name": "chain"}],
            "a recipe does not name `chain`\nhint: one [[codec]] table for each codec, in their order",
        ),
        ([{"name": "chain", "parts": []}], "a recipe does not name `chain`"),
        ([{"name": "chains"}], "unknown codec `chains`\nhint: known: `adaptive`, `bf16`"),
        ([TABLES["error_feedback"]], "`error_feedback` is about the codecs that follow it, but none does"),
        ([TABLES["int8"], TABLES["error_feedback"]], 'put [[codec]] name = "error_feedback" first'),
        ([{}], "[codec] needs `name`, a string, got None"),
    ],
)
def test_tables_that_make_no_codec_are_refused(tables, says):
    with pytest.raises(RecipeError) as error:
        codec_of("codec", tables, HERE)
    assert says in str(error.value)
    assert "`chain`," not in str(error.value)


def test_an_exchange_is_put_together_from_its_tables():
    tables = {"codec": [], "aggregator": {"name": "mean"}, "collective": {"name": "ring"}}
    exchange = exchange_of(tables | {"sparse_collective": {"name": "gather"}}, HERE)
    assert (exchange.codec, exchange.aggregator, exchange.collective) == (Identity(), mean, ring)
    tables |= {"codec": [TABLES["top_k"]], "collective": {"name": "backend"}, "sparse_collective": {"name": "tree"}}
    with pytest.raises(RecipeError, match="leaves entries out of the sum, which nobody would remember"):
        exchange_of(tables, HERE)
    tables["codec"] = [TABLES["error_feedback"], TABLES["top_k"]]
    assert exchange_of(tables, HERE).sparse_collective is tree


@pytest.mark.parametrize(
    ("exchange", "says"),
    [
        (Exchange(PowerSgd(rank=2)), "power_sgd(rank=2) needs meetings of all workers, but in `pairs` a worker talks"),
        (Exchange(ErrorFeedback(TopK()), sparse_collective=tree), "nothing is summed in meetings of `pairs`"),
    ],
)
def test_meetings_of_all_are_refused_where_workers_talk_to_single_ones(exchange, says):
    with pytest.raises(RecipeError) as error:
        require_meetings(exchange, "pairs")
    assert says in error.value.problem
    assert error.value.hint


@pytest.mark.parametrize("exchange", [Exchange(), Exchange(ErrorFeedback(TopK())), Exchange(collective=ring)])
def test_what_one_can_tell_another_is_not_refused(exchange):
    require_meetings(exchange, "pairs")
