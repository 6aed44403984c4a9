"""A recipe's [attack] put to work: who lies, on which data they train, and what a defence may claim."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quorate import parts
from quorate.aggregators import Aggregator, claimed, most_of, name_of
from quorate.attacks import Attack
from quorate.errors import RecipeError
from quorate.hostility import Hostility
from quorate.rand import Rand
from quorate.settings import HostileSettings
from quorate.spoken import aggregator_of
from quorate.tasks import Data
from quorate.training import Training

if TYPE_CHECKING:
    from quorate.recipe import Recipe


def hostility_of(tables: Mapping[str, Any], told: HostileSettings, folder: Path, seed: int) -> Hostility | None:
    """Return who carries out a recipe's [attack]; None if there is none.

    Raises:
        RecipeError: if [hostile] contradicts itself.
    """
    if tables.get("attack") is None:
        return None
    attack: Attack = parts.build("attack", tables["attack"], folder=folder)
    ranks = told.ranks or ()
    f = told.f if told.f is not None else len(ranks) or max(1, claimed(aggregator_of(tables, folder)))
    if ranks and f != len(ranks):
        raise RecipeError(f"[hostile] names {len(ranks)} workers, but f = {f}", f"f = {len(ranks)}")
    if ranks and told.redrawn:
        raise RecipeError("[hostile] names workers, and would redraw them in every step", "leave out `ranks`")
    return Hostility(attack, Rand(seed), f, ranks, told.redrawn, told.start, told.knows)


def poison(training: Training, hostility: Hostility) -> None:
    """Let those that lie train on data that their attack has poisoned, if it does that.

    Raises:
        RecipeError: if it would, but others lie in every step.
    """
    attack, data = hostility.attack, training.train
    if type(attack).poisoned is Attack.poisoned:
        return
    if hostility.redrawn:
        raise RecipeError(
            f"`{type(attack).__name__}` changes the data of those that lie, which must stay the same workers",
            "leave out `redrawn`",
        )
    if data.y.is_floating_point():
        raise RecipeError(f"`{type(attack).__name__}` needs a task with classes", 'name = "digits" in [task]')
    classes = int(data.y.max()) + 1
    for rank in hostility.at(hostility.start, training.size):
        shard = training.shards[rank]
        own = Data(data.x[shard], data.y[shard])
        training.replace_share(rank, attack.poisoned(own, classes, hostility.rand.fold("poison", rank)))


def require_tolerated(aggregator: Aggregator, n: int) -> None:
    """Refuse an aggregator that was told to withstand more than its theorem allows for n updates.

    Raises:
        RecipeError: naming the most.
    """
    f, most = claimed(aggregator), most_of(aggregator, n)
    if f > most:
        raise RecipeError(
            f"{name_of(aggregator)} withstands at most {most} arbitrary updates of {n}, not f = {f}", f"f = {most}"
        )


def described(recipe: Recipe) -> list[tuple[str, str]]:
    """Return (label, text) lines on what a recipe withstands, and on who attacks it; none if it says nothing of it."""
    plan, aggregator, lines = recipe.plan(recipe.workers), recipe.exchange.aggregator, []
    f, hostility = claimed(aggregator), recipe.hostility(recipe.workers)
    if f:
        lines.append(("combined by", f"{name_of(aggregator)}, which withstands {f} arbitrary updates"))
    if hostility is None:
        return lines
    who = f"{hostility.f} others in every step" if hostility.redrawn else f"workers {list(hostility.at(2**31, 0))}"
    since = f", from step {hostility.start + 1} on" if hostility.start else ""
    lines.append(("attack", f"{recipe.tables['attack']['name']} by {who}{since}; they know {_KNOWN[hostility.knows]}"))
    cohort = recipe.program.keywords.get("cohort") if plan.federated else None
    if isinstance(cohort, int) and cohort < plan.trainers:
        from scipy.stats import hypergeom  # takes half a second to import

        chance = float(hypergeom.sf(f, plan.trainers, hostility.f, cohort))
        lines.append(("", f"more than {f} of them are in a cohort of {cohort} with probability {chance:.2g}"))
    return lines


_KNOWN = {"own": "what they have computed", "all": "all honest updates, and speak last"}
