"""Every chart of a report, each defined once: `Figure.chart` is what SVG and PNG are made from.

>>> for figure in figures_of(shown, ceilings, points):
...     print(figure.family, figure.title, figure.absent)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from membound.results.report.cases import Place, ShownCase, latest
from membound.results.report.ceilings import Ceiling
from membound.results.report.drawing import Figure, drawing_library
from membound.results.report.history_chart import history_figures
from membound.results.report.loads_chart import load_figures
from membound.results.report.machines_chart import machine_figures
from membound.results.report.parts_charts import bytes_figures, time_figures
from membound.results.report.points import ShownPoint
from membound.results.report.roofline_chart import roofline_figures
from membound.results.report.shares_chart import share_figures
from membound.results.report.sweep_charts import batch_figures, context_figures


def figures_of(
    shown: Sequence[ShownCase],
    ceilings: Mapping[Place, Mapping[str, Ceiling]],
    points: Sequence[ShownPoint],
) -> Iterator[Figure]:
    """All charts in their order, those that are left out with the reason. Raises ReportUnavailable.

    Only the history draws every run; the others draw the last one of each work.
    """
    alt = drawing_library()
    recent = latest(shown)
    yield from roofline_figures(alt, recent, ceilings)
    yield from share_figures(alt, recent)
    yield from time_figures(alt, recent)
    yield from bytes_figures(alt, recent)
    yield from batch_figures(alt, recent)
    yield from context_figures(alt, recent)
    yield from machine_figures(alt, shown)
    yield from history_figures(alt, shown)
    yield from load_figures(alt, points)
