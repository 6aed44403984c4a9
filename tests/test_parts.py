from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate import parts
from quorate.aggregators.mean import mean
from quorate.codecs.identity import Identity
from quorate.errors import RecipeError
from quorate.parts import KINDS, build, fill, find, names, settings, typed


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_can_be_found_and_says_what_it_is(kind):
    assert names(kind)
    for name, line in names(kind).items():
        assert line.endswith((".", ":")) or line
        assert callable(find(kind, name))


def test_the_file_name_is_the_name():
    assert find("aggregator", "mean") is mean
    assert find("codec", "identity") is Identity
    assert build("codec", {"name": "identity"}) == Identity()


@pytest.mark.parametrize("name", [None, "", 5, ["mean"], {"name": "mean"}])
def test_a_name_must_be_a_string(name):
    with pytest.raises(RecipeError) as error:
        find("aggregator", name)
    known = "hint: known: " + ", ".join(f"`{each}`" for each in names("aggregator"))
    assert str(error.value) == f"[aggregator] needs `name`, a string, got {name!r}\n{known}"


@pytest.mark.parametrize("name", ["os", "mean.mean", "../mean", "_common", "__init__", "MEAN "])
def test_only_names_of_parts_are_found(name):
    with pytest.raises(RecipeError, match="unknown partition"):
        find("partition", name)


def part(x, *, ratio: float, many: int = 3, kind: Literal["a", "b"] = "a", where: Path | None = None):
    return x, ratio, many, kind, where


def test_settings_are_keyword_arguments_or_fields():
    assert list(settings(part)) == ["ratio", "many", "kind", "where"]
    assert list(settings(Half)) == ["ratio"]


@dataclass(frozen=True)
class Half:
    ratio: float = 0.5

    def __post_init__(self):
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio is in (0, 1]; got {self.ratio}")


def test_defaults_are_filled_in():
    assert fill("codec", part, {"ratio": 1}, {}) == {"ratio": 1.0, "many": 3, "kind": "a", "where": None}
    given = {"where": Path("x")}
    assert fill("codec", part, {"ratio": 0.5, "many": 7}, given)["where"] == Path("x")


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({}, "`part` needs `ratio`, which the recipe's [codec] does not give"),
        ({"ratios": 1}, "unknown setting of `part` `ratios`\nhint: did you mean `ratio`?"),
        ({"zzz": 1}, "unknown setting of `part` `zzz`\nhint: known: `kind`, `many`, `ratio`"),
        ({"ratio": 1, "where": "x"}, "unknown setting of `part` `where`\nhint: known: `kind`, `many`, `ratio`"),
        ({"x": 1}, "unknown setting of `part` `x`\nhint: known: `kind`, `many`, `ratio`"),
        ({"ratio": "half"}, "[codec] `ratio`: input should be a valid number, got 'half'"),
        ({"ratio": True}, "[codec] `ratio`: input should be a valid number, got True"),
        ({"ratio": 1, "many": 2.5}, "[codec] `many`: input should be a valid integer, got 2.5\nhint: many = 3"),
        ({"ratio": 1, "many": "3"}, "[codec] `many`: input should be a valid integer, got '3'\nhint: many = 3"),
        ({"ratio": 1, "kind": "c"}, "[codec] `kind`: input should be 'a' or 'b', got 'c'\nhint: kind = \"a\""),
    ],
)
def test_wrong_settings_are_refused(table, says):
    with pytest.raises(RecipeError) as error:
        fill("codec", part, table, {"where": None})
    assert str(error.value) == says


@given(value=st.integers(-(2**62), 2**62) | st.floats(allow_nan=False) | st.booleans() | st.text() | st.none())
def test_values_are_of_the_type_that_is_asked_for_or_refused(value):
    for hint in (int, float, bool, str):
        fits = type(value) is hint or (hint is float and type(value) is int)
        if fits:
            assert typed("x", hint, value) == hint(value)
            assert type(typed("x", hint, value)) is hint
        else:
            with pytest.raises(RecipeError, match=r"^x: input should be a valid"):
                typed("x", hint, value)


def test_lists_become_tuples_where_they_are_asked_for():
    assert typed("x", tuple[int, ...], [1, 2]) == (1, 2)
    assert typed("x", Path | None, "a/b") == Path("a/b")


def test_a_function_is_given_its_settings(tmp_path):
    (tmp_path / "own.py").write_text("def scaled(x, *, by: float = 2.0):\n    return by * x\n")
    made = build("aggregator", {"name": "own.py:scaled", "by": 3}, folder=tmp_path)
    assert isinstance(made, functools.partial)
    assert made(2.0) == 6.0


def test_a_codec_that_refuses_its_settings_is_named(tmp_path):
    text = "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Half:\n    ratio: float\n"
    text += "    def __post_init__(self):\n        raise ValueError(f'ratio is in (0, 1]; got {self.ratio}')\n"
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(RecipeError) as error:
        build("codec", {"name": "own.py:Half", "ratio": 2}, folder=tmp_path)
    assert str(error.value) == "codec `own.py:Half`: ratio is in (0, 1]; got 2.0"


def test_a_file_of_ones_own_is_run_once_and_found_next_to_the_recipe_first(monkeypatch, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        (folder / "own.py").write_text(f"where = []\ndef part():\n    return {folder.name!r}, where\n")
    monkeypatch.chdir(here)
    assert find("task", "own.py:part")()[0] == "here"
    assert find("task", "own.py:part", there)()[0] == "there"
    assert find("task", "own.py:part", there)()[1] is find("task", f"{there}/own.py:part")()[1]
    assert find("task", "own.py:part", tmp_path)()[0] == "here"


def test_a_module_of_ones_own_is_imported(monkeypatch, tmp_path):
    (tmp_path / "module_of_my_own.py").write_text("def task():\n    return 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert find("task", "module_of_my_own:task")() == 7


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def", "own.py can't be run: SyntaxError: invalid syntax (own.py, line 1)"),
        ("import no_such_module", "own.py can't be run: ModuleNotFoundError: No module named 'no_such_module'"),
        ("part = 5", "can't be used: TypeError: 5 is not a callable object"),
        ("other = 5", "`own.py` holds no `part`"),
        ("def part(*, x: Nothing = 1): pass", "can't be used: NameError: name 'Nothing' is not defined"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_each_time(text, says, tmp_path):
    (tmp_path / "own.py").write_text(f"from __future__ import annotations\n{text}\n".replace("line 1", "line 2"))
    for _ in range(2):
        with pytest.raises(RecipeError) as error:
            build("task", {"name": "own.py:part"}, folder=tmp_path)
        assert says.replace("line 1", "line 2") in error.value.problem


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (":part", "task `:part`: `` can't be imported: ValueError: Empty module name"),
        ("..x:part", "task `..x:part`: `..x` can't be imported: TypeError: the 'package' argument is required"),
        ("json:", "task `json:`: `json` holds no ``"),
        (".py:part", "task `.py:part`: there is no file "),
    ],
)
def test_strange_names_are_refused(name, says):
    with pytest.raises(RecipeError) as error:
        parts.find("task", name)
    assert error.value.problem.startswith(says)


def test_a_name_of_another_kind_is_sent_where_it_belongs():
    with pytest.raises(RecipeError) as error:
        parts.find("program", "fed_avg")
    assert (
        error.value.hint
        == '`fed_avg` is an algorithm: name = "fed_avg" in [algorithm], and name = "federated" in [program]'
    )
    with pytest.raises(RecipeError) as error:
        parts.find("aggregator", "top_k")
    assert error.value.hint == '`top_k` is a codec: name = "top_k" in [codec]'
