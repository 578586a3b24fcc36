"""The frame of the report: its look, its script, and the pieces that it is built of.

Whatever comes from a study passes through `escape` or through `_json`.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

STYLE = """
:root { color-scheme: light dark; --text: #1d2430; --soft: #566070; --line: #d8dce3;
        --back: #fff; --card: #f4f6f9; --best: #08603f; --link: #0a58a8; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e9ee; --soft: #a3adba; --line: #343b47; --back: #14171c;
          --card: #1d222a; --best: #5fd3a3; --link: #7ab8ff; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body { margin: 0 auto; max-width: 1080px; padding: 1.5rem 1rem 4rem; color: var(--text);
       background: var(--back); font: 16px/1.55 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.25rem; margin: 3rem 0 .5rem; scroll-margin-top: 1rem; }
h3 { font-size: 1rem; margin: .5rem 0 0; }
p { max-width: 46rem; margin: .5rem 0; }
a { color: var(--link); }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: 1rem 0;
         padding: 0; }
.soft, figcaption { color: var(--soft); font-size: .93rem; }
figcaption { max-width: 46rem; margin-bottom: .25rem; }
.verdict { font-size: 1.2rem; line-height: 1.45; background: var(--card); max-width: none;
           border-left: 5px solid var(--best); border-radius: 0 6px 6px 0;
           padding: .9rem 1.1rem; margin: 1rem 0; }
.notes { margin: .5rem 0; padding-left: 1.2rem; }
.tiles { display: grid; gap: .75rem; margin: 1rem 0;
         grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); }
.tiles div { background: var(--card); border-radius: 6px; padding: .6rem .9rem; }
.tiles dt { color: var(--soft); font-size: .85rem; }
.tiles dd { margin: 0; font-size: 1.2rem; font-weight: 600; }
.scroll { overflow-x: auto; margin: .5rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; min-width: 50%; }
th, td { text-align: left; padding: .4rem 1rem .4rem 0; font-size: .95rem; white-space: nowrap;
         border-bottom: 1px solid var(--line); vertical-align: top; overflow-wrap: normal; }
th { color: var(--soft); font-weight: 600; white-space: normal; vertical-align: bottom; }
th button { all: unset; cursor: pointer; }
th button:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
td:last-child { white-space: normal; }
td.wide { white-space: normal; min-width: 16rem; overflow-wrap: anywhere; }
tr.best td { color: var(--best); font-weight: 600; }
pre { background: var(--card); padding: 1rem; overflow-x: auto; border-radius: 6px;
      font-size: .9rem; margin: .5rem 0; }
button.copy { font: inherit; font-size: .9rem; padding: .25rem .8rem; border-radius: 6px;
              border: 1px solid var(--line); background: var(--card); color: var(--text);
              cursor: pointer; }
details { margin: 1rem 0; }
summary { cursor: pointer; font-weight: 600; }
figure { margin: 1rem 0; min-width: 0; }
.grid { display: grid; gap: 1rem 1.5rem;
        grid-template-columns: repeat(auto-fit, minmax(min(320px, 100%), 1fr)); }
.grid > * { min-width: 0; margin: 0; }
.js-plotly-plot .plotly text { fill: var(--text) !important; }
.js-plotly-plot .plotly .hoverlayer text { fill: #fff !important; }
@media print { .copy, nav { display: none; } }
"""

# Plotly is 4.8 MB and comes as one bundle; the browser unpacks it from a third of that.
SCRIPT = """
"use strict";
const text = (id) => document.getElementById(id).textContent;
async function draw() {
  const packed = Uint8Array.from(atob(text("plotly-gz")), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
  const config = { responsive: true, displayModeBar: false };
  for (const [id, figure] of Object.entries(JSON.parse(text("figures"))))
    await Plotly.newPlot(id, figure.data, figure.layout, config);
  document.documentElement.dataset.drawn = "yes";
}
draw().catch((error) => {
  for (const plot of document.querySelectorAll(".plot"))
    plot.textContent = "This browser cannot draw the plots (" + error.message + ").";
});
for (const button of document.querySelectorAll("button.copy"))
  button.addEventListener("click", async () => {
    const code = document.getElementById(button.dataset.of);
    try { await navigator.clipboard.writeText(code.textContent); }
    catch {
      getSelection().selectAllChildren(code);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
for (const button of document.querySelectorAll("th button"))
  button.addEventListener("click", () => {
    const head = button.parentElement, body = head.closest("table").tBodies[0];
    const sign = head.ariaSort === "ascending" ? -1 : 1, column = head.cellIndex;
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.ariaSort = sign === 1 ? "ascending" : "descending";
    const key = (row) => row.cells[column].textContent;
    const order = (a, b) => {
      const difference = parseFloat(key(a)) - parseFloat(key(b));
      return sign * (difference || key(a).localeCompare(key(b), undefined, { numeric: true }));
    };
    body.append(...[...body.rows].sort(order));
  });
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
<script type="text/plain" id="plotly-gz">{plotly}</script>
<script type="application/json" id="figures">{figures}</script>
</head>
<body>
{body}
<script>{script}</script>
</body>
</html>
"""


class Page:
    """Collects the parts of a page; a section whose title is given gets a place in the contents."""

    def __init__(self):
        self.parts: list[str] = []
        self.sections: list[str] = []
        self.figures: dict[str, go.Figure] = {}

    def section(self, title: str) -> None:
        self.sections.append(title)
        self.parts.append(f'<h2 id="{_anchor(title)}">{escape(title)}</h2>')

    def html(self, *parts: str) -> None:
        """Markup as it is: the caller has escaped what needs it."""
        self.parts += parts

    def say(self, text: str, kind: str = "") -> None:
        self.parts.append(f"<p{kind and f' class={kind!r}'}>{escape(text)}</p>")

    def plot(self, figure: go.Figure, name: str, title: str, caption: str = "") -> None:
        """A figure with its caption; `title` is what a screen reader says instead of the plot."""
        name = f"plot-{name}"  # no section has such an id
        self.figures[name] = figure
        shown = escape(caption or title)
        self.parts.append(
            f'<figure><figcaption>{shown}</figcaption><div class="plot" id="{name}" role="img" '
            f'aria-label="{escape(title)}" style="min-height: {figure.layout.height}px">'
            "<noscript>The plot needs JavaScript.</noscript></div></figure>"
        )

    def render(self, title: str) -> str:
        return PAGE.format(
            title=escape(title),
            style=STYLE,
            script=SCRIPT,
            plotly=_packed(get_plotlyjs()),
            figures=_json(self.figures),
            body="\n".join(self.parts),
        )

    def contents(self) -> str:
        links = (f'<li><a href="#{_anchor(t)}">{escape(t)}</a></li>' for t in self.sections)
        return f'<nav aria-label="Contents"><ul>{"".join(links)}</ul></nav>'


def table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    label: str,
    *,
    best: bool = False,
    sortable: bool = False,
) -> str:
    """A table; the last column may wrap, the first row is marked if it is the `best`."""
    names = [escape(header) for header in headers]
    if sortable:
        names = [f"<button>{name}</button>" for name in names]
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    lines = []
    for index, row in enumerate(rows):
        mark = ' class="best"' if best and index == 0 else ""
        *first, last = (escape(str(cell)) for cell in row)
        wide = ' class="wide"' if len(last) > 40 else ""
        cells = "".join(f"<td>{cell}</td>" for cell in first)
        lines.append(f"<tr{mark}>{cells}<td{wide}>{last}</td></tr>")
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _anchor(title: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in title.lower())


def _json(figures: dict[str, go.Figure]) -> str:
    """Figures as JSON that no script element ends in: without a single `<`."""
    parts = (f'"{name}": {figure.to_json()}' for name, figure in figures.items())
    return "{" + ", ".join(parts).replace("<", "\\u003c") + "}"


def _packed(script: str) -> str:
    return base64.b64encode(gzip.compress(script.encode(), 6, mtime=0)).decode()
