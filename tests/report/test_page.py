from __future__ import annotations

import json
import re
import shutil
import subprocess
import time

import pytest
from plotly.offline import get_plotlyjs

from quorate.errors import QuorateError
from quorate.report.page import write_report
from quorate.report.shell import embedded
from tests.report.runs import DIGEST, write_run

HOSTILE = "</script><script>alert(1)</script>"


def body(page) -> str:
    """Return the page without the library, which is full of everything that is looked for."""
    text = page.read_text(encoding="utf-8")
    assert get_plotlyjs() in text
    return text.replace(get_plotlyjs(), "")


def test_one_run_is_told_with_its_facts_and_pictures(tmp_path):
    text = body(write_report([write_run(tmp_path / "my-run")], tmp_path / "report.html"))
    assert "<title>first_run · my-run</title>" in text
    for fact in ("synchronous_sgd with 8 workers on simulator", "2.13.0+cpu", "3.11.7", "4,810", DIGEST, "53.9 MB"):
        assert fact in text
    assert text.count('class="plot') == 5
    assert "steps = 200" in text
    for block in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL):
        assert json.loads(block)["data"]


def test_several_runs_are_compared_and_folded(tmp_path):
    folders = [write_run(tmp_path / name, speed=speed) for name, speed in (("slow", 1), ("fast", 2))]
    text = body(write_report(folders, tmp_path / "report.html"))
    assert "<title>2 runs compared</title>" in text
    assert text.count('<details class="run">') == 2
    assert '<td class="best">★ 2.40 s</td>' in text
    assert text.count('class="plot') == 9


@pytest.mark.parametrize("number", [1, 2])
def test_hostile_names_stay_text(tmp_path, number):
    folders = [
        write_run(tmp_path / str(i), steps=30, recipe=HOSTILE, error=HOSTILE, status="failed", engine=HOSTILE)
        for i in range(number)
    ]
    for folder in folders:
        (folder / "recipe.toml").write_text(f"# {HOSTILE}\n")
        line = {"step": 31, "clock_seconds": 1, "bytes": 1, HOSTILE: 0.5, "\ud800": 1}
        (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        trace = json.loads((folder / "trace.json").read_text())
        trace["workers"][0]["host"] = HOSTILE
        (folder / "trace.json").write_text(json.dumps(trace))
    text = body(write_report(folders, tmp_path / "report.html"))
    assert "<script>alert" not in text
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in text
    assert text.count("<script") == text.count("</script>")


def test_embedded_json_means_the_same_and_cannot_end_the_script():
    value = {"a": f"{HOSTILE}<!--&\u2028\u2029"}
    assert json.loads(embedded(value)) == value
    assert not set("<>&\u2028\u2029") & set(embedded(value))


def test_nothing_is_loaded_from_anywhere(tmp_path):
    folder = write_run(tmp_path / "a", recipe="https://example.org/x.js")
    text = body(write_report([folder, folder], tmp_path / "report.html"))
    assert not re.search(r"""(src|href|url|action|srcset)\s*[=(]|@import""", text)
    assert "default-src 'none'" in text


def test_a_killed_run_says_so_and_opens(tmp_path):
    folder = write_run(tmp_path / "a", steps=0, status="running", result=None, with_trace=False)
    (folder / "recipe.toml").unlink()
    text = body(write_report([folder], tmp_path / "report.html"))
    for said in ("had not finished", "no step was logged", "There is no trace", "The folder holds no recipe"):
        assert said in text


def test_a_failed_run_shows_its_error_first(tmp_path):
    folder = write_run(tmp_path / "a", status="failed", error="rank 3 left at step 91", result=None)
    text = body(write_report([folder], tmp_path / "report.html"))
    assert text.index("rank 3 left at step 91") < text.index("<h2>Facts")


def test_a_run_that_was_stopped_is_no_failure(tmp_path):
    folder = write_run(tmp_path / "a", status="stopped", error="an operator has stopped the server", result=None)
    text = body(write_report([folder], tmp_path / "report.html"))
    assert "was stopped, and can be gone on with" in text
    assert "failed" not in text


def test_one_worker_and_no_links(tmp_path):
    text = body(write_report([write_run(tmp_path / "a", n=1)], tmp_path / "report.html"))
    assert "with 1 worker on" in text
    assert "no messages went between workers" in text


def test_ten_thousand_workers_stay_small_and_quick(tmp_path):
    folder = write_run(tmp_path / "big", n=10_000)
    began = time.perf_counter()
    page = write_report([folder], tmp_path / "report.html")
    assert time.perf_counter() - began < 10
    assert page.stat().st_size < 8_000_000
    assert "Shows 64 of 10,000 workers (recorded: 80)" in page.read_text()


def test_the_old_report_is_replaced_in_one_go(tmp_path, monkeypatch):
    folder, page = write_run(tmp_path / "a", steps=5), tmp_path / "new" / "report.html"
    assert write_report([folder], page) == page
    before = page.read_text()
    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(QuorateError, match="No space left on device"):
        write_report([folder], page)
    assert page.read_text() == before
    assert list(page.parent.iterdir()) == [page]


def test_wrong_arguments_are_refused(tmp_path):
    with pytest.raises(QuorateError, match="at least one run folder"):
        write_report([], tmp_path / "report.html")
    with pytest.raises(QuorateError, match=r"hint: name a file, for example `.*report\.html`"):
        write_report([write_run(tmp_path / "a", steps=1)], tmp_path)


def test_a_browser_draws_every_picture(tmp_path):
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("no `chromium` on PATH: install it to see whether the page draws its pictures")
    folder = write_run(tmp_path / "x&<b>", n=80)
    page = write_report([folder], tmp_path / "report.html")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--virtual-time-budget=10000", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    drawn = done.stdout.replace(get_plotlyjs(), "")
    assert drawn.count('class="main-svg"') >= 5
    assert "who was busy when" in drawn.lower()
    for expected in ("virtual time (s)", "bytes sent (MB)", "from rank"):
        assert expected in drawn
