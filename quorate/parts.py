"""Finding parts by name and filling in their settings: the file name is the registry.

`codecs/top_k.py` holds `TopK`, which recipes call `top_k`; `aggregators/mean.py` holds the function `mean`. A name with
a colon is a user's own part: `my_package.my_module:my_part` or `folder/file.py:my_part`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import json
import pkgutil
import sys
from collections.abc import Mapping
from dataclasses import is_dataclass
from math import isfinite
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from quorate.errors import RecipeError, suggestion

KINDS = {
    "task": "tasks",
    "partition": "partitions",
    "program": "programs",
    "period": "periods",
    "topology": "topologies",
    "codec": "codecs",
    "aggregator": "aggregators",
    "pre_aggregator": "pre_aggregators",
    "attack": "attacks",
    "code": "codes",
    "optimizer": "optimizers",
    "outer_optimizer": "outer_optimizers",
    "learning_rate": "learning_rates",
    "collective": "collectives",
    "sparse_collective": "sparse_collectives",
    "algorithm": "algorithms",
    "selection": "selections",
    "availability": "availability",
    "downlink": "codecs",
}
UNNAMED = {"chain": "one [[codec]] table for each codec, in their order"}
"""Parts that recipes do not name, and what they say instead."""


def names(kind: str) -> dict[str, str]:
    """Return the parts of a kind and the first sentence of each."""
    package = importlib.import_module(f"quorate.{KINDS[kind]}")
    found = {}
    for module in pkgutil.iter_modules(package.__path__):
        if not module.ispkg and not module.name.startswith("_"):
            text = importlib.import_module(f"{package.__name__}.{module.name}").__doc__ or ""
            found[module.name] = " ".join(text.strip().split("\n\n")[0].split())
    return found


def in_recipes(kind: str) -> dict[str, str]:
    """Return the parts of a kind that recipes can name; see `names`."""
    return {name: text for name, text in names(kind).items() if name not in UNNAMED}


def find(kind: str, name: Any, folder: Path | None = None) -> Any:
    """Return a part: a function, or a class with the file's name in title case.

    Args:
        folder: where a file named in `folder/file.py:part` is looked for, besides the working directory.

    Raises:
        RecipeError: if there is none of that name.
    """
    if not isinstance(name, str) or not name:
        raise RecipeError(f"[{kind}] needs `name`, a string, got {name!r}", suggestion("", in_recipes(kind)))
    if ":" in name:
        return _own(kind, name, folder)
    if name not in names(kind):
        raise RecipeError(f"unknown {kind} `{name}`", _elsewhere(kind, name) or suggestion(name, in_recipes(kind)))
    module = importlib.import_module(f"quorate.{KINDS[kind]}.{name}")
    title = "".join(word.title() for word in name.split("_"))
    return getattr(module, title) if hasattr(module, title) else getattr(module, name)


def _elsewhere(kind: str, name: str) -> str | None:
    """Return where a name belongs that is a part of another kind; None if there is no such part."""
    found = [other for other in KINDS if other not in (kind, "downlink") and name in names(other)]
    if not found:
        return None
    more = ', and name = "federated" in [program]' if found[0] == "algorithm" and kind == "program" else ""
    return f'`{name}` is {_a(found[0])}: name = "{name}" in [{found[0]}]{more}'


def _a(kind: str) -> str:
    return ("an " if kind[0] in "aeiou" else "a ") + kind.replace("_", " ")


def _own(kind: str, name: str, folder: Path | None) -> Any:
    where, _, what = name.rpartition(":")
    module = _from_file(kind, name, Path(where), folder) if where.endswith(".py") else _imported(kind, name, where)
    if not hasattr(module, what):
        public = [each for each in vars(module) if not each.startswith("_")]
        raise RecipeError(f"{kind} `{name}`: `{where}` holds no `{what}`", suggestion(what, public))
    part = getattr(module, what)
    try:
        inspect.signature(part)
        get_type_hints(_annotated(part))
    except Exception as error:
        raise RecipeError(
            f"{kind} `{name}` can't be used: {short(error)}", "name a function whose annotations can be read"
        ) from error
    return part


def _from_file(kind: str, name: str, path: Path, folder: Path | None) -> ModuleType:
    places = [place / path for place in ([folder] if folder else []) + [Path.cwd()]]
    found = next((place.resolve() for place in places if place.is_file()), None)
    if found is None:
        raise RecipeError(f"{kind} `{name}`: there is no file {' or '.join(str(place) for place in places)}")
    key = f"quorate_own_{found.stem}_{abs(hash(str(found)))}"
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, found)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[key] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[key]
            raise RecipeError(f"{kind} `{name}`: {found} can't be run: {short(error)}") from error
    return sys.modules[key]


def _imported(kind: str, name: str, where: str) -> ModuleType:
    try:
        return importlib.import_module(where)
    except ImportError as error:
        raise RecipeError(
            f"{kind} `{name}`: {error}", "name a module that can be imported from here, or a file: `file.py:part`"
        ) from error
    except Exception as error:
        raise RecipeError(f"{kind} `{name}`: `{where}` can't be imported: {short(error)}") from error


def short(error: Exception) -> str:
    """Return an exception of the user's own code as one line."""
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])


def _annotated(part: Any) -> Any:
    return vars(part)["__init__"] if is_dataclass(part) else part


def name_of(instance: Any) -> str:
    """Return the name in recipes of a part that is an instance of a ready class."""
    return str(type(instance).__module__).rpartition(".")[2]


def settings(part: Any) -> dict[str, inspect.Parameter]:
    """Return what a recipe may set of a part: a dataclass's fields, or a function's keyword-only arguments."""
    parameters = inspect.signature(part).parameters
    if is_dataclass(part):
        return dict(parameters)
    return {name: each for name, each in parameters.items() if each.kind is inspect.Parameter.KEYWORD_ONLY}


def fill(kind: str, part: Any, table: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Check a recipe's table against a part's settings.

    Args:
        table: the recipe's values, without `name`.
        given: values that don't come from this table; they can't be set in it.

    Returns:
        The part's keyword arguments, defaults included.

    Raises:
        RecipeError: for an unknown key, a value of the wrong type, or a missing one.
    """
    accepted = settings(part)
    hints = get_type_hints(_annotated(part), include_extras=True)
    label = getattr(part, "__name__", str(part))
    values: dict[str, Any] = {}
    for key in table:
        if key not in accepted or key in given:
            known = [each for each in accepted if each not in given]
            raise RecipeError(f"unknown setting of `{label}` `{key}`", suggestion(key, known))
    for key, parameter in accepted.items():
        if key in given:
            values[key] = given[key]
        elif key in table:
            values[key] = typed(f"[{kind}] `{key}`", hints.get(key, Any), table[key], _setting(key, parameter.default))
        elif parameter.default is inspect.Parameter.empty:
            raise RecipeError(f"`{label}` needs `{key}`, which the recipe's [{kind}] does not give")
        else:
            values[key] = parameter.default
    return values


def _setting(key: str, value: Any) -> str | None:
    """Return the line that says a value in a recipe, if a recipe can."""
    plain = isinstance(value, bool | int | str) or (isinstance(value, float) and isfinite(value))
    return f"{key} = {json.dumps(value)}" if plain else None


def typed(label: str, hint: Any, value: Any, instead: str | None = None) -> Any:
    """Return a TOML value as the type that an annotation asks for; numbers are not read from strings.

    Args:
        instead: what could be typed in its place.

    Raises:
        RecipeError: if it is of another type.
    """
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
        return adapter.validate_json(json.dumps(value, default=str), strict=True)
    except PydanticSchemaGenerationError as error:  # pragma: no cover - a part with an annotation that can't be read
        raise RecipeError(f"{label} can't be set from a recipe") from error
    except ValidationError as error:
        wanted = error.errors()[0]["msg"].removeprefix("Value error, ")
        if error.errors()[0]["type"] != "value_error" or repr(value) not in wanted:
            wanted += f", got {value!r}"
        raise RecipeError(f"{label}: {wanted[:1].lower()}{wanted[1:]}", instead) from error


def build(
    kind: str, table: Mapping[str, Any], given: Mapping[str, Any] | None = None, folder: Path | None = None
) -> Any:
    """Make a part from a recipe's table: an instance of a codec, or a function with its settings filled in."""
    part: Any = find(kind, table.get("name"), folder)
    is_pair = is_dataclass(part)
    rest = {key: value for key, value in table.items() if key != "name"}
    values = fill(kind, part, rest, given or {})
    if is_pair:
        try:
            return part(**values)
        except ValueError as error:
            raise RecipeError(f"{kind} `{table['name']}`: {error}") from error
    return functools.partial(part, **values) if values else part
