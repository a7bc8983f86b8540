"""All that a report shows, from rows and judged claims, before it is a page or Markdown.

>>> report = whole_report(rows, claims)
>>> report.answers[0].fastest
'numba:cpu in 9 of 9 works, 1.01 to 2.66 times as fast as the next.'
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from membound.results.report.answer import Answer, answers_of
from membound.results.report.cases import Place, ShownCase, cases_of
from membound.results.report.ceilings import Ceiling, ceilings_of
from membound.results.report.charts import figures_of
from membound.results.report.claim_charts import charts_of
from membound.results.report.drawing import Figure
from membound.results.report.points import ShownPoint, shown_points
from membound.results.report.text import ClaimReport
from membound.results.row import Row


@dataclass(frozen=True, slots=True)
class Report:
    """Cases, points of load and claims, with their charts where these can be drawn."""

    answers: Sequence[Answer]
    shown: Sequence[ShownCase]
    points: Sequence[ShownPoint]
    ceilings: Mapping[Place, Mapping[str, Ceiling]]
    claims: Sequence[ClaimReport]
    figures: Sequence[Figure] = ()
    claim_charts: Sequence[Mapping[str, str]] = ()
    """SVG by name, for each of the claims."""
    without_charts: str = ""
    """Why nothing is drawn."""


def whole_report(rows: Sequence[Row], claims: Sequence[ClaimReport] = ()) -> Report:
    """Everything but charts."""
    shown = cases_of(rows)
    return Report(answers_of(shown, rows), shown, shown_points(rows), ceilings_of(rows), claims)


def with_charts(report: Report) -> Report:
    """The same with charts. Raises ReportUnavailable."""
    return replace(
        report,
        figures=list(figures_of(report.shown, report.ceilings, report.points))
        if report.shown or report.points
        else [],
        claim_charts=[charts_of(one.claim.observations, one.findings, one.cells) for one in report.claims],
    )
