"""Comparisons of points of load for terminals; in Markdown: `serving_text`.

>>> from membound.results.views.console import PlainConsole
>>> PlainConsole().print(compare_points_view(lines))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from membound.results.wording import amount, duration, percent

NAMES = {
    "ttft_p50_s": "first token, median",
    "ttft_p99_s": "first token, 99 %",
    "tpot_p50_s": "time a token, median",
    "itl_p50_s": "between tokens, median",
    "e2e_p50_s": "whole answer, median",
    "output_tokens_per_s": "throughput",
    "goodput_share": "goodput",
}
LEGEND = "B/A: the figure of B over that of A; interval: 95 % over server processes, of which three are needed on each side."
IN_TURN = "B/A: the figure of B over that of A, median of the rounds in which both took turns; interval: 95 % over rounds, three at least."


def compare_points_view(lines: Sequence[dict[str, Any]]) -> Group:
    """A comparison (records of `compare_points`), a block a load."""
    first = lines[0]
    parts: list[RenderableType] = [
        *(Text(f"{side}: {side_of(first, side)}", style="bold") for side in ("A", "B")),
        Text(),
    ]
    for work in dict.fromkeys(x["work"] for x in lines):
        of_work = [x for x in lines if x["work"] == work]
        parts.append(Text(work, style="bold"))
        rated = [x for x in of_work if x["ratio"] is not None]
        if rated:
            table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
            table.add_column("figure")
            for name in ("A", "B", "B/A", "interval"):
                table.add_column(name, justify="right", no_wrap=True)
            for x in rated:
                table.add_row(*cells_of(x))
            parts.append(table)
        if of_work[0]["note"]:
            parts.append(Text(of_work[0]["note"], style="yellow"))
        parts.append(Text())
    return Group(*parts, Text(legend_of(lines), style="dim"))


def side_of(line: dict[str, Any], side: str) -> str:
    """What a side is: its engine and its run, or its run and where its server listened."""
    run, backend = line[f"run_{side.lower()}"], line[f"backend_{side.lower()}"]
    return f"run {run}, {line[f'device_{side.lower()}']}" if backend == "url" else f"{backend}, run {run}"


def legend_of(lines: Sequence[dict[str, Any]]) -> str:
    """What the columns mean."""
    return IN_TURN if any(line["rounds"] for line in lines) else LEGEND


def cells_of(line: dict[str, Any]) -> list[str]:
    """A figure of both sides, their ratio, its interval."""
    ci = line["ratio_ci"]
    return [
        NAMES[line["figure"]],
        _value(line["figure"], line["a"]),
        _value(line["figure"], line["b"]),
        f"{line['ratio']:.3g}",
        "–" if ci is None else f"{ci[0]:.3g}–{ci[1]:.3g}",
    ]


def _value(figure: str, value: float) -> str:
    if figure == "goodput_share":
        return percent(value)
    return amount(value, "tokens/s") if figure == "output_tokens_per_s" else duration(value, 3)
