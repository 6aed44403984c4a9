"""What `docs/robustness.md` says of the attacks is so."""

from __future__ import annotations

import re
from pathlib import Path

from quorate import parts
from tests.commands import call

PAGE = (Path(__file__).parent.parent / "docs" / "robustness.md").read_text()
TABLES = [
    [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    for table in re.findall(r"(?:^\|.*\n)+", PAGE, re.MULTILINE)
]


def named(table):
    """Return the parts that a table's lines begin with."""
    return {match[1] for row in table[2:] if (match := re.match(r"`(\w+)`", row[0]))}


def test_every_attack_has_its_line_in_the_overview_and_in_the_runs():
    overview, _, *runs = TABLES
    for table in (overview, *runs):
        assert named(table) == set(parts.names("attack"))


def test_every_attack_that_forges_has_its_line_in_the_meeting():
    assert named(TABLES[1]) == set(parts.names("attack")) - {"label_flip"}


def test_the_recipe_can_be_run(tmp_path, monkeypatch, capsys):
    text, *_ = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    file = tmp_path / "recipe.toml"
    file.write_text(text)
    assert call(monkeypatch, "check", file) == 0
    assert "alie" in capsys.readouterr().out
