"""What a claim found, for people: a line for each experiment, backend and arm.

>>> from rich.console import Console
>>> Console().print(claim_view(findings))
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table

from membound.results.claim.finding import Figure, Finding
from membound.results.wording import duration, rate

DOSES = ("k", "m", "batch", "queries")
"""Units that are the names of doses."""


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
    """A figure with its unit and interval: ``3 % [1 %, 5 %]``; an end at infinity is ``none``."""
    value = _number(figure.value, figure.unit)
    if figure.low is None or figure.high is None or figure.low != figure.low:
        return value
    unit = "" if figure.unit in DOSES else figure.unit
    return f"{value} [{_number(figure.low, unit)}, {_number(figure.high, unit)}]"


def _number(value: float, unit: str) -> str:
    if value != value:
        return "–"
    if value in (float("inf"), float("-inf")):
        return "none" if value > 0 else "−∞"
    if unit == "%":
        return f"{100 * value:.3g} %"
    if unit == "s":
        return duration(value) if value > 0 else "0 s"
    if unit in ("bytes/s", "FLOP/s"):
        return rate(value, unit)
    return f"{unit} = {value:.3g}" if unit in DOSES else f"{value:.3g} {unit}".rstrip()


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    return table
