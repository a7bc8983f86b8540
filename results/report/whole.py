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
from membound.results.report.drawing import Figure, drawing_library
from membound.results.report.fleet import ShownFleet, fleet_of
from membound.results.report.fleet_charts import fleet_figures
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
    fleet: ShownFleet | None = None
    """The devices of named nodes, which are compared with each other alone."""


def whole_report(rows: Sequence[Row], claims: Sequence[ClaimReport] = ()) -> Report:
    """Everything but charts."""
    fleet, others = fleet_of(rows)
    shown = cases_of(others)
    answers = answers_of(shown, others)
    return Report(answers, shown, shown_points(others), ceilings_of(others), claims, fleet=fleet)


def with_charts(report: Report) -> Report:
    """The same with charts. Raises ReportUnavailable."""
    figures = list(fleet_figures(drawing_library(), report.fleet)) if report.fleet else []
    if report.shown or report.points:
        figures += figures_of(report.shown, report.ceilings, report.points)
    return replace(
        report,
        figures=figures,
        claim_charts=[charts_of(one.claim.observations, one.findings, one.cells) for one in report.claims],
    )
