"""What is looked at in a recipe as soon as it is read, so that a mistake shows before any data is."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, get_type_hints

from quorate import graph_check, loading, parts
from quorate.attacked import require_tolerated
from quorate.errors import RecipeError
from quorate.periods import timing
from quorate.rand import Rand
from quorate.spoken import require_meetings

if TYPE_CHECKING:
    from quorate.recipe import Recipe


def check(recipe: Recipe) -> None:
    """Build every part once.

    Raises:
        RecipeError: if one can't be built, or they don't go together.
    """
    part = parts.find("task", recipe.tables["task"].get("name"), recipe.folder)
    given = {"data": None} if "data" in parts.settings(part) else {}
    parts.build("task", recipe.tables["task"], given, recipe.folder)
    loading.require_kind(
        get_type_hints(part).get("return"), recipe.tables["task"], recipe.tables["program"], recipe.folder
    )
    _ = recipe.partition, recipe.exchange
    plan = recipe.plan(recipe.workers)
    if plan.meets and not plan.federated:
        require_tolerated(recipe.exchange.aggregator, plan.trainers)
    recipe.hostility(recipe.workers)
    keywords = recipe.program.keywords if isinstance(recipe.program, partial) else {}
    if "period" in recipe.tables:
        period = timing(keywords["period"])
        period.due(period.init(), 1)
    if "learning_rate" in recipe.tables:
        keywords["learning_rate"](0, recipe.workers)
    if "topology" in recipe.tables:
        graph_check.row(keywords["topology"], 0, recipe.workers, 0)
    steps = recipe.steps
    if steps is not None and steps < 1:
        raise RecipeError(f"`steps` must be at least 1, got {steps}", "steps = 300")
    if recipe.availability is not None:
        if not plan.federated:
            raise RecipeError("[availability] is of the clients of a federation", "leave out [availability]")
        recipe.availability(0, Rand(recipe.seed)).next_change(0.0)
    if not plan.meets:
        require_meetings(recipe.exchange, recipe.tables["program"]["name"])
    if plan.alone and recipe.processes.device == "cuda":
        raise RecipeError(
            f"`{recipe.tables['program']['name']}` answers whoever comes first, over connections of two, which NCCL"
            " does not have; they go by gloo, with tensors on the CPU",
            'device = "cpu" in [processes]',
        )
