"""UCI Adult's rows: 15 columns with `, ` between them, the last `<=50K` or `>50K`; a `?` where nothing is known.

Source: Becker and Kohavi, "Adult", UCI Machine Learning Repository, 1996, doi 10.24432/C5XW20, its `adult.names`.
"""

from __future__ import annotations

import re
from array import array
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from quorate.errors import DataError
from quorate.tasks.files import DAMAGED, LIMIT
from quorate.tasks.files.lines import bad_line, read_lines, shown

NUMBERS = ("age", "fnlwgt", "education-num", "capital-gain", "capital-loss", "hours-per-week")
CATEGORIES: dict[str, tuple[str, ...]] = {
    name: tuple(values.split())
    for name, values in {
        "workclass": "Private Self-emp-not-inc Self-emp-inc Federal-gov Local-gov State-gov Without-pay Never-worked",
        "education": "Bachelors Some-college 11th HS-grad Prof-school Assoc-acdm Assoc-voc 9th 7th-8th 12th Masters"
        " 1st-4th 10th Doctorate 5th-6th Preschool",
        "marital-status": "Married-civ-spouse Divorced Never-married Separated Widowed Married-spouse-absent"
        " Married-AF-spouse",
        "occupation": "Tech-support Craft-repair Other-service Sales Exec-managerial Prof-specialty Handlers-cleaners"
        " Machine-op-inspct Adm-clerical Farming-fishing Transport-moving Priv-house-serv Protective-serv Armed-Forces",
        "relationship": "Wife Own-child Husband Not-in-family Other-relative Unmarried",
        "race": "White Asian-Pac-Islander Amer-Indian-Eskimo Other Black",
        "sex": "Female Male",
        "native-country": "United-States Cambodia England Puerto-Rico Canada Germany Outlying-US(Guam-USVI-etc) India"
        " Japan Greece South China Cuba Iran Honduras Philippines Italy Poland Jamaica Vietnam Mexico Portugal Ireland"
        " France Dominican-Republic Laos Ecuador Taiwan Haiti Columbia Hungary Guatemala Nicaragua Scotland Thailand"
        " Yugoslavia El-Salvador Trinadad&Tobago Peru Hong Holand-Netherlands",
    }.items()
}
COLUMNS = (
    *("age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation", "relationship"),
    *("race", "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country"),
)
LABELS = {"<=50K": 0, ">50K": 1}
UNKNOWN = "?"
ROW_BYTES = 8 * (len(COLUMNS) + 1)  # in memory


class Census(NamedTuple):
    """People, in the order of the file.

    Args:
        columns: each (n,), int64: of a number, itself; of a category, its place in `CATEGORIES`, or -1 for a `?`.
        label: (n,), int64, 1 for an income of more than 50,000 dollars a year.
    """

    columns: dict[str, Tensor]
    label: Tensor


def read_census(path: Path) -> Census:
    """Read `adult.data` or `adult.test`.

    Args:
        path: the file; a first line that begins with `|`, an empty last line, and a full stop behind labels, all of
            which `adult.test` has, are passed over.

    Raises:
        DataError: if the file is missing, cut short or empty, or a line is not as it should be.
    """
    cells = {name: array("q") for name in (*COLUMNS, "label")}
    place = {name: {value: i for i, value in enumerate(values)} for name, values in CATEGORIES.items()}
    end = 0
    for number, text in read_lines(path):
        if number == 1 and text.startswith("|"):
            continue
        if end:
            raise bad_line(path, end, "is empty, but not the last")
        if not text:
            end = number
            continue
        if number > LIMIT // ROW_BYTES:
            raise DataError(f"`{path}` has more than {LIMIT // ROW_BYTES} rows", "split the file")
        *values, label = text.split(", ")
        if len(values) != len(COLUMNS):
            raise bad_line(path, number, f"has {len(values) + 1} columns instead of {len(COLUMNS) + 1}: {shown(text)}")
        for name, value in zip(COLUMNS, values, strict=True):
            cells[name].append(_read(path, number, name, value, place.get(name)))
        if label.removesuffix(".") not in LABELS:
            raise bad_line(path, number, f"ends in {shown(label)}, not in `<=50K` or `>50K`")
        cells["label"].append(LABELS[label.removesuffix(".")])
    if not cells["label"]:
        raise DataError(f"`{path}` holds no rows", DAMAGED)
    columns = {name: torch.frombuffer(values, dtype=torch.int64) for name, values in cells.items()}
    return Census(columns, columns.pop("label"))


def _read(path: Path, number: int, name: str, value: str, places: dict[str, int] | None) -> int:
    if places is None:
        if not re.fullmatch(r"\d{1,9}", value, re.ASCII):
            raise bad_line(path, number, f"has as `{name}` no whole number, but {shown(value)}")
        return int(value)
    if value != UNKNOWN and value not in places:
        raise bad_line(path, number, f"has an unknown `{name}`: {shown(value)}")
    return places.get(value, -1)
