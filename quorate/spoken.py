"""The exchange of a recipe: its codecs, aggregator and collectives, put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quorate import parts
from quorate.aggregators import Aggregator, what_it_is_given
from quorate.codecs import Codec
from quorate.codecs.adaptive import Adaptive
from quorate.codecs.chain import Chain
from quorate.codecs.identity import Identity
from quorate.collectives import Collective
from quorate.combination import PreAggregated
from quorate.errors import RecipeError
from quorate.exchange import Exchange
from quorate.hostility import Hostility
from quorate.sparse_collectives import SparseCollective
from quorate.sparse_collectives.gather import gather


def aggregator_of(tables: Mapping[str, Any], folder: Path) -> Aggregator:
    """Return how a recipe's updates are combined, after its pre-aggregators if it has any."""
    aggregator: Aggregator = _part("aggregator", tables["aggregator"], folder)
    before = tuple(_part("pre_aggregator", each, folder) for each in tables.get("pre_aggregator", ()))
    return PreAggregated(before, aggregator) if before else aggregator


def _part(kind: str, table: Mapping[str, Any], folder: Path) -> Any:
    part = parts.find(kind, table.get("name"), folder)
    return parts.build(kind, table, dict.fromkeys(what_it_is_given(part)), folder)


def exchange_of(tables: Mapping[str, Any], folder: Path, hostility: Hostility | None = None) -> Exchange:
    """Return what is said in a meeting, and how it is combined.

    Args:
        tables: the recipe's parts.
        folder: where files that the recipe names are looked for.
        hostility: makes some of the workers lie.

    Raises:
        RecipeError: if they can't work together.
    """
    aggregator = aggregator_of(tables, folder)
    collective: Collective = parts.build("collective", tables["collective"], folder=folder)
    sparse: SparseCollective = parts.build("sparse_collective", tables["sparse_collective"], folder=folder)
    return Exchange(codec_of("codec", tables["codec"], folder), aggregator, collective, sparse, hostility=hostility)


def require_meetings(exchange: Exchange, program: str) -> None:
    """Refuse an exchange that is about meetings of all workers, for a program in which they talk to single ones.

    Raises:
        RecipeError: naming the program.
    """
    if exchange.meets_itself:
        raise RecipeError(
            f"{exchange.codec} needs meetings of all workers, but in `{program}` a worker talks to single ones",
            'name = "local_sgd" in [program], or another codec',
        )
    if exchange.sparse_collective is not gather:
        raise RecipeError(
            f"nothing is summed in meetings of `{program}`, in which a worker talks to single ones",
            "leave out [sparse_collective]",
        )


def codec_of(kind: str, tables: Sequence[Mapping[str, Any]], folder: Path) -> Codec:
    """Build a recipe's codecs, [[codec]] or [[downlink]]; one that has a codec of its own takes all that follow it."""
    codecs: list[Codec] = []
    for table in reversed(tables):
        if table.get("name") in parts.UNNAMED:
            raise RecipeError(f"a recipe does not name `{table['name']}`", parts.UNNAMED[table["name"]])
        if "codec" not in parts.settings(parts.find(kind, table.get("name"), folder)):
            codecs.insert(0, parts.build(kind, table, folder=folder))
        elif codecs:
            codecs = [parts.build(kind, table, {"codec": _chained(codecs)}, folder)]
        else:
            raise RecipeError(
                f"`{table['name']}` is about the codecs that follow it, but none does",
                f'put [[{kind}]] name = "{table["name"]}" first, and e.g. name = "top_k" after it',
            )
    return _chained(codecs)


def _chained(codecs: Sequence[Codec]) -> Codec:
    if len(codecs) > 1:
        return Chain(tuple(codecs))
    switched_off = any(isinstance(codec, Adaptive) and not codec.enabled for codec in codecs)
    return codecs[0] if codecs and not switched_off else Identity()
