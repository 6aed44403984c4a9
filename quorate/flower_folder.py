"""Writes the folder of an app that `flwr run` takes: a recipe, and the few lines that make it Flower's."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tomli_w

from quorate.errors import RunError
from quorate.files import write_atomically
from quorate.recipe import Recipe
from quorate.star import require_federated

APP = "federation_app"
_MODULE = '''"""The recipe beside this file, as Flower's apps."""

from pathlib import Path

from quorate.flower import client_app, server_app

RECIPE = Path(__file__).parent / "recipe.toml"
client = client_app(RECIPE)
server = server_app(RECIPE)
'''
_ENVIRONMENT = """# For SuperLink, SuperNodes and `flwr`: nothing is told to anybody, nothing installed for an app.
FLWR_TELEMETRY_ENABLED=0
FLWR_DISABLE_UPDATE_CHECK=1
FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1
"""


def write_app(where: Path, recipe: Recipe, out: Path) -> None:
    """Write an app's folder; files of one's own that the recipe names by `file.py:part` go with it.

    Args:
        where: the folder, which must be empty or missing.
        out: the run's folder on the SuperLink's machine, for its configuration.

    Raises:
        RunError: if the recipe is no federation's, or names files that are not below its folder, or there are files
            already.
    """
    require_federated(recipe)
    if where.exists() and (not where.is_dir() or any(where.iterdir())):
        raise RunError(f"`{where}` is not empty", "name another folder")
    own = sorted(set(_own_files(recipe.tables)))
    for path in own:
        if path.is_absolute() or ".." in path.parts or not (recipe.folder / path).is_file():
            raise RunError(f"the recipe names `{path}`, which is no file below `{recipe.folder}`", "put it beside it")
    app = where / APP
    app.mkdir(parents=True, exist_ok=True)
    for path in own:
        (app / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(recipe.folder / path, app / path)
    project = {
        "project": {
            "name": "quorate-federation",
            "version": "1.0.0",
            "description": f"The recipe {recipe.name}",
            "dependencies": ["quorate[flower]"],
        },
        "tool": {
            "flwr": {
                "app": {
                    "publisher": "local",
                    "components": {"serverapp": f"{APP}:server", "clientapp": f"{APP}:client"},
                    "config": {"out": str(out.absolute()), "data": ""},
                }
            }
        },
    }
    write_atomically(where / "pyproject.toml", tomli_w.dumps(project).encode())
    write_atomically(where / "flower.env", _ENVIRONMENT.encode())
    write_atomically(app / "recipe.toml", recipe.to_toml().encode())
    write_atomically(app / "__init__.py", _MODULE.encode())


def _own_files(value: Any) -> Iterator[Path]:
    """Yield the files that parts are taken from."""
    if isinstance(value, Mapping):
        for each in value.values():
            yield from _own_files(each)
    elif isinstance(value, list):
        for each in value:
            yield from _own_files(each)
    elif isinstance(value, str) and value.rpartition(":")[0].endswith(".py"):
        yield Path(value.rpartition(":")[0])
