"""Claims as one HTML page that loads nothing from outside: it contains its style and its charts.

>>> from membound.results.report.charts import charts_of
>>> path.write_text(claim_page([(report, charts_of(claim.observations, findings, cells))]))
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape

from membound.results.claim.experiments import TEXTS, Register
from membound.results.claim.finding import BROKEN, INCONCLUSIVE, NOT_RUN, REFUTED, SUPPORTED
from membound.results.report.charts import CAPTIONS
from membound.results.report.text import (
    CEILING_HEAD,
    FIGURE_HEAD,
    LEGEND,
    MAP_HEAD,
    VERDICT_HEAD,
    ClaimReport,
    Lines,
    ceiling_lines,
    figure_lines,
    heading,
    map_lines,
    provenance,
    verdict_lines,
)

CLASSES = {
    SUPPORTED: "supported",
    REFUTED: "refuted",
    INCONCLUSIVE: "open",
    BROKEN: "broken",
    NOT_RUN: "open",
}
STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff; max-width: 72rem; margin: 2rem auto;
  padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.3rem; margin-top: 2.5rem; } h3 { font-size: 1.05rem; margin-top: 2rem; }
.lead { font-size: 1.05rem; } .note, figcaption { color: #555; font-size: .87rem; }
.scroll, figure { overflow-x: auto; } figure { margin: 1.5rem 0; } figure svg { max-width: 100%; min-width: 34rem; height: auto; }
table { border-collapse: collapse; font-size: .87rem; width: 100%; min-width: 44rem; overflow-wrap: normal; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid #ddd; }
td.verdict { font-weight: 600; white-space: nowrap; }
.supported { color: #1d4f91; } .refuted { color: #b3261e; } .broken { color: #8a5a00; } .open { color: #555; }
details { margin: 1rem 0; } summary { cursor: pointer; } dt { font-weight: 600; margin-top: .6rem; } dd { margin: 0 0 0 1rem; }
"""


def claim_page(claims: Iterable[tuple[ClaimReport, Mapping[str, str]]]) -> str:
    """The page of these claims, each with its charts as SVG by name."""
    reports = list(claims)
    title = reports[0][0].register.claim if reports else "No claim"
    lines = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>membound: {escape(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        f"<p class=lead>As it can be tested: {escape(reports[0][0].register.region)}</p>" if reports else "",
    ]
    for one, charts in reports:
        lines += _section(one, charts)
    if reports:
        lines += _experiments(reports[0][0].register)
    return "\n".join([*lines, f"<p class=note>{escape(LEGEND)}</p></body></html>", ""])


def _section(report: ClaimReport, charts: Mapping[str, str]) -> Iterator[str]:
    yield f"<section><h2>{escape(heading(report))}</h2>"
    yield f"<p class=lead>{escape(report.paragraph)}</p><p class=note>{escape(provenance(report))}</p>"
    yield from _table(VERDICT_HEAD, verdict_lines(report))
    for name, svg in charts.items():
        own = _own_names(svg, f"{report.claim.meta.claim_id} {name}")
        yield f"<figure><h3>{escape(name.capitalize())}</h3>{own}"
        yield f"<figcaption>{escape(CAPTIONS[name])}</figcaption></figure>"
    yield "<h3>Figures</h3>"
    yield from _table(FIGURE_HEAD, figure_lines(report))
    yield "<h3>Ceilings</h3>"
    yield from _table(CEILING_HEAD, ceiling_lines(report))
    if report.cells:
        yield "<h3>The map in numbers</h3>"
        yield from _table(MAP_HEAD, map_lines(report))
    yield "</section>"


def _table(head: Sequence[str], lines: Lines) -> Iterator[str]:
    if not lines:
        yield "<p>None.</p>"
        return
    yield "<div class=scroll><table><thead><tr>"
    yield "".join(f"<th>{escape(name)}</th>" for name in head) + "</tr></thead><tbody>"
    for line in lines:
        cells = (
            f'<td class="verdict {CLASSES[text]}">{escape(text)}</td>'
            if name == "verdict"
            else f"<td>{escape(text)}</td>"
            for name, text in zip(head, line, strict=True)
        )
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</tbody></table></div>"


def _own_names(svg: str, prefix: str) -> str:
    """The picture with unique names: each is drawn alone, and the drawing library counts its clips from 0."""
    own = re.sub(r"[^a-z0-9]+", "-", prefix.lower())
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{own}-\1"', svg)
    return re.sub(r'url\((["\']?)#([^)"\']+)\1\)', rf"url(#{own}-\2)", svg)


def _experiments(register: Register) -> Iterator[str]:
    """The experiments as they were registered."""
    yield f"<h2>The experiments, version {register.version}</h2><p class=note>sha256 {register.sha256}</p>"
    for experiment in register:
        yield f"<details><summary>{experiment.id} {escape(experiment.name)}</summary><dl>"
        for key in TEXTS:
            label = key.replace("_", " ").capitalize()
            yield f"<dt>{label}</dt><dd>{escape(getattr(experiment, key))}</dd>"
        yield "</dl></details>"
