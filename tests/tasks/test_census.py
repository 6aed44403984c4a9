from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.errors import DataError
from quorate.tasks.files import census
from quorate.tasks.files.census import CATEGORIES, COLUMNS, NUMBERS, read_census

ROW = (
    "39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, White, Male, 2174, 0, 40,"
    " United-States, <=50K"
)
UNKNOWN = "25, ?, 5, 11th, 7, Divorced, ?, Wife, Black, Female, 0, 7, 20, ?, >50K"


def test_every_column_is_a_number_or_a_category():
    assert sorted(COLUMNS) == sorted([*NUMBERS, *CATEGORIES])
    assert all(len(set(values)) == len(values) for values in CATEGORIES.values())


@pytest.mark.parametrize("dress", ["{a}\n{b}\n", "{a}\n{b}\n\n", "|1x3 Cross validator\n{a}.\n{b}.\n\n"])
def test_reads_what_the_repository_writes(dress, tmp_path):
    (tmp_path / "a").write_text(dress.format(a=ROW, b=UNKNOWN))
    read = read_census(tmp_path / "a")
    assert read.label.tolist() == [0, 1]
    assert read.columns["age"].tolist() == [39, 25]
    assert read.columns["capital-loss"].tolist() == [0, 7]
    assert read.columns["workclass"].tolist() == [CATEGORIES["workclass"].index("State-gov"), -1]
    assert read.columns["native-country"].tolist() == [0, -1]
    assert list(read.columns) == list(COLUMNS)


HOSTILE = {
    "nothing": ("", " holds no rows"),
    "a comment only": ("|1x3 Cross validator\n", " holds no rows"),
    "another file": ("userId,movieId\n", ": line 1 has 1 columns instead of 15: `userId,movieId`"),
    "no blanks": (
        ROW.replace(", ", ",") + "\n",
        f": line 1 has 1 columns instead of 15: `{ROW.replace(', ', ',')[:40]}`",
    ),
    "a column more": (f"{ROW}, 7\n", f": line 1 has 16 columns instead of 15: `{ROW[:40]}`"),
    "an empty line": (f"{ROW}\n\n{ROW}\n", ": line 2 is empty, but not the last"),
    "a second comment": (f"{ROW}\n|1x3\n", ": line 2 has 1 columns instead of 15: `|1x3`"),
    "a negative age": (f"-{ROW}\n", ": line 1 has as `age` no whole number, but `-39`"),
    "an unknown age": (ROW.replace("39", "?", 1) + "\n", ": line 1 has as `age` no whole number, but `?`"),
    "other digits": (ROW.replace("39", "\u0663", 1) + "\n", ": line 1 has as `age` no whole number, but `\\u0663`"),
    "an endless number": (f"{10**9}{ROW}\n", f": line 1 has as `age` no whole number, but `{10**9}39`"),
    "a new category": (ROW.replace("Male", "male") + "\n", ": line 1 has an unknown `sex`: `male`"),
    "another label": (ROW.replace("<=50K", "50K") + "\n", ": line 1 ends in `50K`, not in `<=50K` or `>50K`"),
    "no label": (ROW.replace("<=50K", "") + "\n", ": line 1 ends in nothing, not in `<=50K` or `>50K`"),
    "cut in a label": (ROW, " is cut short: its last line, 1, has no end"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_refuses_a_file_that_is_not_as_it_should_be(case, tmp_path):
    content, says = HOSTILE[case]
    (tmp_path / "a").write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as error:
        read_census(tmp_path / "a")
    assert error.value.problem == f"`{tmp_path / 'a'}`{says}"
    assert error.value.hint


def test_refuses_more_rows_than_memory_is_for(tmp_path, monkeypatch):
    monkeypatch.setattr(census, "LIMIT", 300)
    (tmp_path / "a").write_text(f"{ROW}\n" * 3)
    with pytest.raises(DataError, match="has more than 2 rows"):
        read_census(tmp_path / "a")


@given(content=st.text("0159?, K<=>.|\n", max_size=60))
def test_noise_gives_a_data_error(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("noise") / "a"
    path.write_text(content)
    with pytest.raises(DataError) as error:
        read_census(path)
    assert str(path) in error.value.problem
