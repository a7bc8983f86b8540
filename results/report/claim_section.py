"""A claim as a section of the page: its paragraph, verdicts, charts and figures.

>>> html = "".join(claim_section(report, {"theft": "<svg…"}, "claim-1"))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from membound.results.claim.experiments import TEXTS, Register
from membound.results.claim.finding import BROKEN, INCONCLUSIVE, NOT_RUN, REFUTED, SUPPORTED
from membound.results.plain_text import as_html
from membound.results.report.claim_charts import CAPTIONS
from membound.results.report.pictures import in_page
from membound.results.report.text import (
    CEILING_HEAD,
    FIGURE_HEAD,
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


def claim_section(report: ClaimReport, charts: Mapping[str, str], key: str) -> Iterator[str]:
    """The section; `charts` are SVG by name, `key` is its anchor."""
    yield f"<section class=claim id={key}><h3>{as_html(heading(report))}</h3>"
    yield f"<p class=lead>{as_html(report.paragraph)}</p><p class=note>{as_html(provenance(report))}</p>"
    yield from _table("Verdicts", VERDICT_HEAD, verdict_lines(report))
    for name, svg in charts.items():
        own = in_page(svg, f"{name}: {heading(report)}", f"{key} {name}")
        yield f"<figure><h4>{as_html(name.capitalize())}</h4>{own}"
        yield f"<figcaption>{as_html(CAPTIONS[name])}</figcaption></figure>"
    yield "<details><summary>Figures, ceilings and the map in numbers</summary>"
    yield from _table("Figures", FIGURE_HEAD, figure_lines(report))
    yield from _table("Ceilings", CEILING_HEAD, ceiling_lines(report))
    if report.cells:
        yield from _table("The map in numbers", MAP_HEAD, map_lines(report))
    yield "</details></section>"


def experiments_section(register: Register) -> Iterator[str]:
    """The experiments as they were registered."""
    yield f"<section class=claim id=experiments><h3>The experiments, version {register.version}</h3>"
    yield f"<p class=note>sha256 {register.sha256}</p>"
    for experiment in register:
        yield f"<details><summary>{experiment.id} {as_html(experiment.name)}</summary><dl>"
        for key in TEXTS:
            label = key.replace("_", " ").capitalize()
            yield f"<dt>{label}</dt><dd>{as_html(getattr(experiment, key))}</dd>"
        yield "</dl></details>"
    yield "</section>"


def _table(caption: str, head: Sequence[str], lines: Lines) -> Iterator[str]:
    if not lines:
        yield f"<p>{caption}: none.</p>"
        return
    yield f'<div class=scroll tabindex=0 role=region aria-label="{caption}"><table><caption>{caption}</caption><thead><tr>'
    yield "".join(f"<th scope=col>{as_html(name)}</th>" for name in head) + "</tr></thead><tbody>"
    for line in lines:
        cells = (
            f'<td class="verdict {CLASSES[text]}">{as_html(text)}</td>'
            if name == "verdict"
            else f"<td>{as_html(text)}</td>"
            for name, text in zip(head, line, strict=True)
        )
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</tbody></table></div>"
