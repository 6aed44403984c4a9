"""What may import what, and what may stand where."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import quorate

ROOT = Path(quorate.__file__).parent
TREES = {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}
MAY_WAIT = (
    "programs/",
    "engines/",
    "collectives/",
    "sparse_collectives/",
    "codecs/_together.py",
    "codecs/count_sketch.py",
    "codecs/power_sgd.py",
    "exchange.py",
    "federated/__init__.py",
    "federated/questions.py",
    "star.py",
    "deployment.py",
)
MAY_LOOP = ("engines/federation", "engines/control_plane", "star.py", "deployment.py")
MAY_SEED = ("gradient.py", "training.py")


def imported(tree: ast.AST) -> set[str]:
    """Return the modules that a file imports, anywhere in it; `from a import b` counts as a and a.b."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found |= {str(node.module), *(f"{node.module}.{name.name}" for name in node.names)}
    return found


def dotted(node: ast.AST) -> str:
    """Return `a.b.c` for the expression of that form."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def names(tree: ast.AST) -> set[str]:
    return {dotted(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute | ast.Name)}


def offenders(prefixes: str | tuple[str, ...], forbidden: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return (file, module) of every import, in files of these prefixes, of a forbidden module or one below it."""
    return [
        (file, module)
        for file, tree in TREES.items()
        if file.startswith(prefixes)
        for module in sorted(imported(tree))
        if any(module == each or module.startswith(f"{each}.") for each in forbidden)
    ]


def test_files_are_found():
    assert {"node.py", "programs/gossip.py", "engines/simulator.py", "report/page.py"} <= set(TREES)


def test_programs_know_no_engine_clock_or_global_chance():
    forbidden = ("quorate.engines", "asyncio", "time", "random", "threading", "torch.distributed", "numpy")
    assert offenders("programs/", forbidden) == []
    drawing = {"torch.manual_seed", "torch.rand", "torch.randn", "torch.randint", "torch.randperm"}
    assert [file for file, tree in TREES.items() if file.startswith("programs/") and names(tree) & drawing] == []


@pytest.mark.parametrize(
    ("prefixes", "forbidden"),
    [
        ("engines/", ("quorate.programs", "quorate.recipe", "quorate.run", "quorate.cli")),
        (
            ("collectives/", "sparse_collectives/"),
            ("quorate.engines", "quorate.programs", "quorate.exchange", "quorate.recipe"),
        ),
        (
            ("codecs/", "aggregators/", "pre_aggregators/", "attacks/", "codes/"),
            ("quorate.engines", "quorate.programs", "quorate.exchange", "quorate.recipe"),
        ),
        (("topologies/", "periods/", "partitions/"), ("quorate.engines", "quorate.programs", "quorate.exchange")),
        ("tasks/", ("quorate.engines", "quorate.programs", "quorate.exchange", "quorate.training")),
        ("exchange.py", ("quorate.engines", "quorate.programs", "quorate.training", "quorate.recipe")),
        (("wire.py", "rand.py", "node.py", "trees.py", "errors.py", "trace.py"), ("quorate.engines", "quorate.codecs")),
        (("gradient.py", "training.py", "optimizer.py", "flat.py"), ("quorate.engines", "quorate.programs")),
    ],
)
def test_imports_point_one_way(prefixes, forbidden):
    assert offenders(prefixes, forbidden) == []


def test_the_report_reads_folders_only():
    own = ("quorate.report", "quorate.errors")
    strange = [
        (file, module) for file, module in offenders("report/", ("quorate",)) if not module.startswith((*own, "torch"))
    ]
    assert [each for each in strange if each[1] != "quorate"] == []


def test_async_stands_in_programs_exchanges_and_engines_only():
    found = [
        file for file, tree in TREES.items() if any(isinstance(node, ast.AsyncFunctionDef) for node in ast.walk(tree))
    ]
    assert [file for file in found if not file.startswith(MAY_WAIT)] == []


def test_only_federations_across_machines_run_an_event_loop():
    assert [each for each in offenders("", ("asyncio",)) if not each[0].startswith(MAY_LOOP)] == []


def test_torch_is_seeded_where_the_model_is_built_and_run_only():
    seeding = {"torch.manual_seed", "torch.random.manual_seed", "torch.seed", "torch.set_rng_state"}
    assert [file for file, tree in TREES.items() if names(tree) & seeding and file not in MAY_SEED] == []


@pytest.mark.parametrize("file", TREES)
def test_every_module_says_what_it_is(file):
    if file != "__main__.py":
        assert (ast.get_docstring(TREES[file]) or "").strip()


def test_nothing_is_unpickled_or_evaluated():
    # Between a process and the helpers that it has started itself, over a pair of sockets without a name.
    assert offenders("", ("pickle", "cloudpickle", "dill", "marshal", "shelve")) == [
        ("engines/cohorts_parcels.py", "pickle")
    ]
    assert [file for file, tree in TREES.items() if names(tree) & {"eval", "exec", "torch.load"}] == []
    allowing = [
        file
        for file, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle"
        if not (isinstance(node.value, ast.Constant) and node.value.value is False)
    ]
    assert allowing == []
