"""What `docs/codecs.md` says of the codecs is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from quorate import parts, recipe
from quorate.codecs.threshold import Threshold
from quorate.exchange import Exchange
from quorate.rand import At, Rand
from quorate.wire import Wire, size_in_bytes
from tests.tiny import randn

PAGE = (Path(__file__).parent.parent / "docs" / "codecs.md").read_text()
ROWS = {
    cells[0].strip("`"): cells
    for cells in ([cell.strip() for cell in row.split("|")[1:-1]] for row in PAGE.splitlines() if row.startswith("| `"))
    if len(cells) == 6
}
D = 1_000_000
UPDATE = randn(1, D)[0]


def test_every_codec_has_its_row():
    assert set(ROWS) == set(parts.names("codec")) - {"chain", "error_feedback"}


@pytest.mark.parametrize("name", ROWS)
def test_bytes_sums_and_bounds_are_as_the_table_says(name):
    _, said, summable, unbiased, bound, _ = ROWS[name]
    if name == "adaptive":
        return
    part = parts.find("codec", name)
    codec = Threshold(3.0) if part is Threshold else part()
    facts = codec.wire(Wire())
    assert (facts.summable and facts.aligned) == (summable == "yes")
    assert codec.unbiased == (unbiased == "yes")
    if re.match(r"[\d.]+", said):
        if Exchange(codec).meets_itself:
            count = size_in_bytes(codec.emits(UPDATE))
        else:
            head, side, _ = codec.encode(UPDATE.clone(), codec.init(UPDATE), At(0, 0, 4, Rand(0)))
            count = size_in_bytes((head, *side))
        assert count / D == pytest.approx(float(said.split()[0]), rel=0.05)
    formulas = {"1 - k/d": 0.999, "1 - 1/d": 1 - 1 / D, "1 - 2k/3d": 1 - 667 / D, "1 - 1/4096": 1 - 1 / 4096}
    formulas |= {"1 - 1/1024": 1 - 1 / 1024, "none known": float("inf")}
    stated = formulas[bound] if bound in formulas else float(bound.split()[0])
    assert codec.bound(D) == pytest.approx(stated, rel=0.05)


def test_the_recipe_of_the_page_can_be_run(tmp_path):
    text = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[0]
    read = recipe.parse(text, "page", tmp_path)
    assert [table["name"] for table in read.tables["codec"]] == ["error_feedback", "sampled_k", "fp16"]
    assert read.record.histogram == 10
