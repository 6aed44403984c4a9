from __future__ import annotations

import json

import pytest

from quorate import folder, parts
from quorate import run as runs
from quorate.recipe import load
from tests.commands import READY, RECIPES, call, refusal, stop_at, write_recipe


def test_check_says_what_travels(monkeypatch, capsys):
    assert call(monkeypatch, "check", RECIPES / "first_run.toml", "--workers", 3) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{RECIPES / 'first_run.toml'}: ok\n")
    rows = {" ".join(line.split()) for line in out.splitlines()}
    assert {"program synchronous_sgd, 300 steps", "workers 3", "messages identity", "noise no"} <= rows
    assert "in a meeting updates are summed on their way (all-reduce)" in rows


def test_check_names_codecs_as_recipes_do(monkeypatch, capsys):
    assert call(monkeypatch, "check", RECIPES / "compressed" / "top_k.toml") == 0
    rows = {" ".join(line.split()) for line in capsys.readouterr().out.splitlines()}
    assert "messages error_feedback(top_k(ratio=0.01), warm_up=40)" in rows


@pytest.mark.parametrize("ready", READY)
def test_every_ready_recipe_passes_the_check(ready, monkeypatch):
    assert call(monkeypatch, "check", RECIPES / f"{ready}.toml") == 0


def test_list_gives_every_part_and_recipe_a_line(monkeypatch, capsys):
    monkeypatch.chdir(RECIPES.parent)
    assert call(monkeypatch, "list") == 0
    out = capsys.readouterr().out
    for kind, package in parts.KINDS.items():
        assert f"\n{out}".count(f"\n{package}\n") == 1
        for name, line in parts.in_recipes(kind).items():
            assert line
            assert f"  {name:20} {line}\n" in out
    assert "  chain " not in out
    for ready in READY:
        assert f"  recipes/{ready}.toml" in out


def test_compare_puts_recipes_and_runs_side_by_side(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    one, other = write_recipe(tmp_path), write_recipe(tmp_path, ready="gossip")
    assert call(monkeypatch, "run", one, "--simulate", 2, "--out", "first") == 0
    capsys.readouterr()
    assert call(monkeypatch, "compare", "first", other, "--simulate", 2, "--json") == 0
    out = capsys.readouterr().out
    assert "report: comparison.html" in out
    assert "gossip" in (tmp_path / "comparison.html").read_text()
    told = json.loads(out.splitlines()[-1])
    assert told[0] == folder.read(tmp_path / "first")["result"]
    assert told[1]["parameters_sha256"] != told[0]["parameters_sha256"]


def test_report_draws_the_pictures_again(monkeypatch, capsys, tmp_path):
    run = tmp_path / "run"
    runs.simulate(load(write_recipe(tmp_path)), 2, run)
    path = run / "report.html"
    path.unlink()
    assert call(monkeypatch, "report", run) == 0
    assert path.is_file()
    assert capsys.readouterr().out.endswith(f"report: {path}\n")


def test_report_shows_a_run_that_was_stopped(monkeypatch, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        runs.simulate(load(write_recipe(tmp_path)), 2, run, progress=stop_at(14))
    assert call(monkeypatch, "report", run) == 0
    assert (run / "report.html").is_file()


def test_report_names_what_is_no_run(monkeypatch, capsys, tmp_path):
    err = refusal(monkeypatch, capsys, "report", tmp_path)
    assert err.startswith(f"`{tmp_path}` is not a run folder: it has no run.json")
