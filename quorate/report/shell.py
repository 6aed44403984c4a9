"""The frame of the page: its looks, and the script that draws a picture when it comes into sight.

The policy in the head forbids every request, so a page stays offline whatever is written into it.
"""

from __future__ import annotations

import json
from typing import Any

from plotly.offline import get_plotlyjs

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: #1d2229; background: #f4f5f7;
  margin: 0; }
main { max-width: 1160px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 26px; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 0 0 6px; }
.lead { color: #59616d; margin: 0 0 18px; overflow-wrap: anywhere; }
section, details.run { background: white; border: 1px solid #dfe2e7; border-radius: 8px; padding: 16px 18px;
  margin: 0 0 16px; }
details.run > section { border: 0; border-top: 1px solid #e8eaee; border-radius: 0; padding: 16px 0 4px; margin: 0; }
summary { cursor: pointer; overflow-wrap: anywhere; }
details.run > summary { font-weight: 600; }
details.run[open] > summary { margin-bottom: 14px; }
.reading { color: #4a525d; max-width: 85ch; margin: 4px 0 0; }
.narrow { max-width: 760px; }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin: 0 0 16px; }
.card { background: white; border: 1px solid #dfe2e7; border-radius: 8px; padding: 10px 16px; min-width: 110px; }
.card b { display: block; font-size: 21px; font-weight: 600; white-space: nowrap; }
.card span, dt { color: #59616d; font-size: 13px; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(215px, 1fr)); gap: 10px 18px; margin: 0; }
dd { margin: 0; overflow-wrap: anywhere; }
dl div.wide { grid-column: 1 / -1; }
.bad, .open { border-radius: 8px; padding: 12px 18px; margin: 0 0 16px; overflow-wrap: anywhere; }
.bad { background: #fdecea; border: 1px solid #e0a39d; }
.open { background: #fff6dd; border: 1px solid #e3cd8b; }
pre { font: 13px/1.45 ui-monospace, Menlo, Consolas, monospace; white-space: pre-wrap; overflow-wrap: anywhere;
  margin: 8px 0 0; }
.hash { font: 13px ui-monospace, Menlo, Consolas, monospace; }
.table { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 6px 10px; border-bottom: 1px solid #e8eaee; white-space: nowrap; }
th { color: #59616d; font-weight: 500; font-size: 13px; }
th:first-child, td:first-child { text-align: left; }
td:first-child { white-space: normal; overflow-wrap: anywhere; }
td:last-child { font: 13px ui-monospace, Menlo, Consolas, monospace; }
td.best { font-weight: 600; color: #00664a; background: #e6f5ef; }
"""

SCRIPT = """
function draw(plot) {
  const data = document.getElementById(plot.id + "-data");
  if (plot.dataset.drawn || !data) return;
  plot.dataset.drawn = "yes";
  const figure = JSON.parse(data.textContent);
  Plotly.newPlot(plot, figure.data, figure.layout, {
    responsive: true, displaylogo: false,
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d", "autoScale2d"]],
  });
}
function visible(plot) {
  for (let up = plot.closest("details"); up; up = up.parentElement.closest("details")) if (!up.open) return false;
  return true;
}
function drawVisible() {
  for (const plot of document.querySelectorAll(".plot")) if (visible(plot)) draw(plot);
}
for (const details of document.querySelectorAll("details")) details.addEventListener("toggle", drawVisible);
drawVisible();
"""


def page(title: str, body: str) -> str:
    """Return a whole page.

    Args:
        title: HTML-escaped already, as is the body.
    """
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{STYLE}</style>
<script>{_inside_script(get_plotlyjs())}</script>
</head>
<body>
<main>
{body}
</main>
<script>{SCRIPT}</script>
</body>
</html>
"""


def embedded(value: Any) -> str:
    """Return JSON for the inside of a script element: nothing in it can end the element or begin a comment."""
    text = value if isinstance(value, str) else json.dumps(value)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _inside_script(code: str) -> str:
    return code.replace("</script", "<\\/script")
