"""A recipe: what a run is, as a TOML file whose tables mirror the parts.

Flags of the command line say where a run happens, never what it is; the number of workers and the seed are the two
exceptions, because they are what one varies most.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import tomli_w
from pydantic import BaseModel, Field

from quorate import loading, misplaced, parts
from quorate.attacked import hostility_of, poison
from quorate.availability import Availability
from quorate.cluster import Cluster
from quorate.errors import RecipeError, suggestion
from quorate.exchange import Exchange
from quorate.hostility import Hostility
from quorate.learning_rates import Product
from quorate.optimizer import Optimizer, known_optimizers
from quorate.partitions import Partition
from quorate.plan import Plan, plan_of
from quorate.rand import Rand
from quorate.recipe_check import check
from quorate.settings import (
    ComparisonSettings,
    FederationSettings,
    HostileSettings,
    ProcessSettings,
    RecordSettings,
    SimulatorSettings,
    checked,
)
from quorate.sparse.task import SparseTask
from quorate.sparse.training import SparseTraining
from quorate.spoken import codec_of, exchange_of
from quorate.tables import DEFAULTS, OF_LISTS, OF_PROGRAM, PARTS, filled, parts_of, without_none
from quorate.tasks import Task
from quorate.training import Training

Seed = Annotated[int, Field(ge=0, lt=2**62)]

_OF_FEDERATIONS = ("comparison", "federation")
_SETTINGS: dict[str, type[BaseModel]] = {
    "cluster": Cluster,
    "simulator": SimulatorSettings,
    "processes": ProcessSettings,
    "record": RecordSettings,
    "federation": FederationSettings,
    "comparison": ComparisonSettings,
    "hostile": HostileSettings,
}


@dataclass(frozen=True)
class Recipe:
    """A recipe whose every value has been checked; making it loads no data.

    Args:
        name: what the run folder is called after.
        folder: where files that the recipe names are looked for.
        seed: what all randomness of a run comes from.
        workers: how many, if the command line says nothing else.
        tables: the recipe's parts, defaults filled in.
    """

    name: str
    folder: Path
    seed: int
    workers: int
    tables: Mapping[str, Any]
    cluster: Cluster = field(default_factory=Cluster)
    simulator: SimulatorSettings = field(default_factory=SimulatorSettings)
    processes: ProcessSettings = field(default_factory=ProcessSettings)
    record: RecordSettings = field(default_factory=RecordSettings)
    federation: FederationSettings = field(default_factory=FederationSettings)
    comparison: ComparisonSettings = field(default_factory=ComparisonSettings)
    hostile: HostileSettings = field(default_factory=HostileSettings)

    def training(self, size: int, data: Path | None, device: str = "cpu") -> Training | SparseTraining:
        """Load the task, and divide its data among those of a number of ranks that train; see `loading.load`."""
        task, trainers, rand = self._load(data), self.plan(size).trainers, Rand(self.seed)
        if isinstance(task, SparseTask):
            return SparseTraining(task, self.partition, trainers, rand)
        return self.poisoned(Training(task, self.partition, trainers, rand, device), size)

    def poisoned(self, training: Training, size: int | None = None) -> Training:
        """Return a training in which those who carry out the [attack] have the data that it would give them.

        Args:
            size: number of ranks; None for the recipe's.
        """
        hostility = self.hostility(size or self.workers)
        if hostility is not None:
            poison(training, hostility)
        return training

    def task(self, data: Path | None) -> Task:
        """Load the task, of a model whose parameters all workers hold; see `training`."""
        return loading.dense(self._load(data), self.tables["program"]["name"])

    def _load(self, data: Path | None) -> Task | SparseTask:
        return loading.load(self.tables["task"], self.tables["program"], self.folder, data)

    @property
    def partition(self) -> Partition:
        """How data is divided."""
        return parts.build("partition", self.tables["partition"], folder=self.folder)  # type: ignore[no-any-return]

    @property
    def availability(self) -> Availability | None:
        """When clients of a simulated federation are there; None for always."""
        table = self.tables.get("availability")
        if table is None:
            return None
        part = parts.find("availability", table.get("name"), self.folder)
        given = {"folder": self.folder} if "folder" in parts.settings(part) else {}
        return parts.build("availability", table, given, self.folder)  # type: ignore[no-any-return]

    @property
    def exchange(self) -> Exchange:
        """What is said in a meeting, and how it is combined; nobody lies in it but by `attacked`."""
        return exchange_of(self.tables, self.folder, self._hostility)

    @property
    def _hostility(self) -> Hostility | None:
        return hostility_of(self.tables, self.hostile, self.folder, self.seed)

    def hostility(self, size: int) -> Hostility | None:
        """Return who of a number of ranks carries out the [attack]; None if there is none.

        Raises:
            RecipeError: if so many can't.
        """
        found = self._hostility
        return None if found is None else replace(found, among=self.plan(size).trainers)

    def attacked(self, exchange: Exchange, size: int) -> Exchange:
        """Return an exchange of a number of ranks in which those who carry out the [attack] are known."""
        return exchange if exchange.hostility is None else replace(exchange, hostility=self.hostility(size))

    @property
    def program(self) -> Any:
        """The program with its settings filled in: (node, training, exchange) -> coroutine."""
        part = parts.find("program", self.tables["program"]["name"], self.folder)
        given = {name: self._part(kind) for name, kind in parts_of(part).items()}
        return parts.build("program", self.tables["program"], given, self.folder)

    def plan(self, size: int) -> Plan:
        """Return how the program will use a number of ranks.

        Raises:
            RecipeError: if it can't run on so many.
        """
        return plan_of(self.program, size, exchange=self.exchange)

    @property
    def steps(self) -> int | None:
        """How many steps the program does, if it has such a setting."""
        steps = self.program.keywords.get("steps") if isinstance(self.program, partial) else None
        return steps if isinstance(steps, int) else None

    def _part(self, kind: str) -> Any:
        table = self.tables[kind]
        if kind == "optimizer":
            if not isinstance(table.get("name"), str):
                raise RecipeError("[optimizer] needs `name`, a class of torch.optim", 'name = "sgd"')
            optimizer = known_optimizers().get(table["name"].lower())
            hints = get_type_hints(optimizer.__init__) if optimizer else {}
            for key, value in table.items():
                if key in hints:
                    parts.typed(f"[optimizer] `{key}`", hints[key], value)
            return Optimizer(table["name"], {key: value for key, value in table.items() if key != "name"})
        if kind == "downlink":
            return codec_of(kind, table, self.folder)
        if isinstance(table, list):
            return Product(tuple(parts.build(kind, each, folder=self.folder) for each in table))
        return parts.build(kind, table, folder=self.folder)

    def to_toml(self) -> str:
        """Return the whole recipe, defaults included, as TOML that gives this recipe again."""
        whole: dict[str, Any] = {"seed": self.seed, "workers": self.workers}
        whole |= {kind: table for kind, table in self.tables.items() if table}
        for key in _SETTINGS:
            if key in _OF_FEDERATIONS and not self.plan(self.workers).federated:
                continue
            if key == "hostile" and "attack" not in self.tables:
                continue
            whole[key] = getattr(self, key).model_dump(mode="json", exclude_none=True)
        return tomli_w.dumps(without_none(whole))


def load(path: Path) -> Recipe:
    """Read a recipe from a TOML file.

    Raises:
        RecipeError: if there is no such file, it is no TOML, or a value in it can't be what was meant.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise RecipeError(f"there is no recipe `{path}`", "`quorate list` shows the ready ones") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe `{path}` can't be read: {error}") from error
    return parse(text, path.stem, path.resolve().parent)


def parse(text: str, name: str, folder: Path) -> Recipe:
    """Read a recipe from TOML text; see `load`."""
    try:
        whole = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"recipe `{name}` is no valid TOML: {error}") from error
    return resolve(whole, name, folder)


def resolve(whole: Mapping[str, Any], name: str, folder: Path) -> Recipe:
    """Check a recipe's values, and fill in defaults; see `load`."""
    known = ["seed", "workers", *PARTS, *_SETTINGS]
    for key in whole:
        if key not in known:
            raise RecipeError(f"unknown key `{key}` in recipe `{name}`", suggestion(key, known))
    seed = parts.typed("`seed`", Seed, whole.get("seed", 0))
    workers = parts.typed("`workers`", int, whole.get("workers", 8))
    if workers < 1:
        raise RecipeError(f"a run needs at least one worker, got workers = {workers}", "workers = 8")
    if "program" not in whole:
        raise RecipeError(f"recipe `{name}` has no [program]", suggestion("", parts.names("program")))
    tables: dict[str, Any] = {}
    for kind in PARTS:
        table = whole.get(kind, DEFAULTS.get(kind))
        if kind in OF_LISTS:
            if not isinstance(table, list) or not all(isinstance(each, Mapping) for each in table):
                raise RecipeError(f"{kind}s are written as [[{kind}]], one table each, in their order")
        elif kind == "learning_rate" and isinstance(table, list) and table:
            if not all(isinstance(each, Mapping) for each in table):
                raise RecipeError(
                    "learning rates are written as [[learning_rate]], one table each; they are multiplied"
                )
        elif table is not None and not isinstance(table, Mapping):
            raise RecipeError(f"`{kind}` must be a table, got {table!r}", f'[{kind}]\nname = "..."')
        if table is not None:
            tables[kind] = table
    program = parts.find("program", tables["program"].get("name"), folder)
    misplaced.refuse(tables["program"], parts.settings(program))
    used = parts_of(program).values()
    for key, kind in parts_of(program).items():
        default = parts.settings(program)[key].default
        if kind not in whole and kind in tables and kind not in OF_LISTS and is_dataclass(default):
            tables[kind] = {"name": parts.name_of(default)}
    for kind in set(OF_PROGRAM.values()) - set(used):
        if kind in whole:
            raise RecipeError(f"program `{tables['program']['name']}` has no use for [{kind}]", f"leave out [{kind}]")
        tables.pop(kind, None)
    if "optimizer" in used and "optimizer" not in tables:
        raise RecipeError(
            f"program `{tables['program']['name']}` needs an [optimizer]", '[optimizer]\nname = "sgd"\nlr = 0.1'
        )
    if "hostile" in whole and "attack" not in tables:
        raise RecipeError("[hostile] says who carries out an attack, but there is none", '[attack]\nname = "sign_flip"')
    settings = {key: checked(key, model, whole.get(key, {})) for key, model in _SETTINGS.items()}
    recipe = Recipe(name, folder, seed, workers, tables, **settings)
    check(recipe)
    for key in _OF_FEDERATIONS:
        if key in whole and not recipe.plan(workers).federated:
            raise RecipeError(
                f"program `{tables['program']['name']}` has no use for [{key}], which is of federations",
                f"leave out [{key}]",
            )
    return Recipe(
        name, folder, seed, workers, {kind: filled(kind, tables[kind], folder) for kind in tables}, **settings
    )
