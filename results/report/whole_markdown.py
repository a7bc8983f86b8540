"""A report as Markdown: the answer of each machine, the charts as links, and the tables of every run and claim.

>>> path.write_text(report_markdown(report, rows, {"roofline-1": "report-plots/roofline-1.svg"}))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from membound.results.fleet.device_run import node_of
from membound.results.plain_text import as_markdown
from membound.results.report.answer import Answer
from membound.results.report.claim_charts import CAPTIONS
from membound.results.report.markdown import claim_markdown
from membound.results.report.whole import Report
from membound.results.row import Row
from membound.results.views.fleet import fleet_markdown
from membound.results.views.markdown import run_markdown
from membound.results.views.serving_text import points_markdown


def report_markdown(report: Report, rows: Sequence[Row], links: Mapping[str, str]) -> str:
    """The whole document; `links` are the files of the charts by their names."""
    lines = ["# What limits LLM decoding here", ""]
    for answer in report.answers:
        lines += _answer(answer)
    if report.fleet:
        lines += ["## The fleet", "", fleet_markdown(report.fleet.comparison)]
    if report.without_charts:
        lines += [f"No charts: {as_markdown(report.without_charts)}.", ""]
    for one in report.figures:
        title = as_markdown(f"{one.family}: {one.title}" if one.title else one.family)
        if one.name in links:
            lines += [f"![{title}]({links[one.name]})", "", as_markdown(one.caption), ""]
        else:
            lines += [f"{title} is left out: {as_markdown(one.absent)}.", ""]
    alone = [row for row in rows if not (report.fleet and node_of(row))]
    parts = ["\n".join(lines), run_markdown(alone) if report.shown else "", points_markdown(rows)]
    if report.claims:
        names = {
            one.claim.meta.claim_id: {
                name: links[f"claim-{number}-{name.replace(' ', '-')}"]
                for name in CAPTIONS
                if f"claim-{number}-{name.replace(' ', '-')}" in links
            }
            for number, one in enumerate(report.claims, 1)
        }
        parts.append(claim_markdown(report.claims, names))
    return "\n".join(part for part in parts if part)


def _answer(answer: Answer) -> Iterator[str]:
    yield from (f"## {as_markdown(answer.place.label)}", "")
    told = {
        "Which is fastest": answer.fastest,
        "How near the limit": answer.near,
        "What bounds it": answer.bound,
        "What to doubt": " ".join(answer.doubts) or "Nothing speaks against these figures.",
    }
    yield from (f"- **{name}**: {as_markdown(text)}" for name, text in told.items())
    yield ""
