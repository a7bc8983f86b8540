"""What a claim found, for people: a line for each experiment, backend and arm.

>>> Console().print(claim_view(findings))
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table

from membound.results.finding import Figure, Finding


def claim_view(findings: Sequence[Finding]) -> RenderableType:
    """Verdicts with their sentences, then the figures behind them with their 95 % intervals."""
    verdicts = _table("experiment", "backend", "arm", "verdict", "what was found")
    for one in findings:
        title = f"{one.experiment} {one.name}"
        verdicts.add_row(title, one.backend, one.arm, one.verdict, one.sentence)
    figures = _table("experiment", "backend", "arm", "figure", "value")
    for one in findings:
        for figure in one.figures:
            figures.add_row(str(one.experiment), one.backend, one.arm, figure.name, figure_text(figure))
    return Group(verdicts, "", figures) if figures.row_count else verdicts


def figure_text(figure: Figure) -> str:
    """A figure with its interval: ``0.98 [0.95, 1.01]``, shares in %."""
    interval = ""
    if figure.low is not None and figure.high is not None:
        interval = f" [{_number(figure.low, figure.unit)}, {_number(figure.high, figure.unit)}]"
    unit = f" {figure.unit}" if figure.unit not in ("", "%") else ""
    return f"{_number(figure.value, figure.unit)}{interval}{unit}"


def _number(value: float, unit: str) -> str:
    return f"{value:.1%}" if unit == "%" else f"{value:.3g}"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold", no_wrap=name in ("backend", "verdict"))
    return table
