"""A soak in lines: each pass as it ends, then what was found.

>>> from rich.console import Console
>>> Console().print(pass_line(3, passes[2], passes[0]))
>>> Console().print(soak_view(passes, found, []))
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from rich.console import Group
from rich.table import Table
from rich.text import Text

from membound.results.soak.judgement import LEAST, NAMES, WARM, Finding
from membound.results.soak.reading import Pass
from membound.results.wording import amount

LEGEND = (
    "shares: the median of a pass's shares over those of the first pass. Held by the harness when all workers have ended: "
    "after the second pass (the first fills caches), after the last one, and the most after any of them."
)


def pass_line(number: int, one: Pass, first: Pass) -> Text:
    """A pass in a line: rows, time, the median of its shares over that of the first pass, memory, descriptors."""
    both = [one.shares[case] / first.shares[case] for case in one.shares if first.shares.get(case)]
    shares = f", shares × {median(both):.2f}" if both and one is not first else ""
    if shares and one.disturbed:
        shares += f" ({len(one.disturbed)} of {len(one.shares)} disturbed)"
    held = one.reading
    return Text(
        f"pass {number}: {one.stored} of {one.expected} rows in {one.seconds:.0f} s{shares}; "
        f"{amount(held.resident_bytes, 'B')}, {held.descriptors} descriptors"
    )


def soak_view(passes: Sequence[Pass], found: Sequence[Finding], untold: Sequence[str]) -> Group:
    """The answer, the findings, what could not be told, and what was held."""
    if not passes:
        return Group(Text("no pass was finished: nothing can be told", style="bold"))
    seconds = sum(one.seconds for one in passes)
    over = f"{len(passes)} pass{'es' * (len(passes) != 1)} in {seconds / 60:.1f} minutes"
    rows = sum(one.stored for one in passes)
    answer = f"found: {len(found)} in {over}" if found else f"nothing found in {over}: {rows} rows, none lost"
    lines = [Text(one.text) for one in found]
    return Group(
        Text(answer, style="bold"),
        *lines,
        *map(Text, untold),
        Text(),
        _table(passes),
        Text(),
        Text(LEGEND, style="dim"),
    )


def _table(passes: Sequence[Pass]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("held")
    for name in ("second", "last", "most"):
        table.add_column(name, justify="right")
    kept = passes[WARM:] or passes
    for name in ("processes", *LEAST):
        values = [getattr(one.reading, name) for one in kept]
        row = (values[0], values[-1], max(values))
        cells = [amount(value, "B") if name.endswith("_bytes") else str(value) for value in row]
        table.add_row(NAMES[name], *cells)
    return table
