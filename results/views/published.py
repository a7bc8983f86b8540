"""What is published, for a terminal: a line for each run.

>>> console.print(published_view(entries))
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from membound.results.published_runs import Entry
from membound.results.wording import percent, rate

HINT = (
    "membound show published/RUN shows a run, membound compare published/RUN latest compares one with yours."
)


def published_view(entries: Sequence[Entry]) -> Group:
    """Runs in order of time with their machine and how much of its limit the fastest backends reach."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for name in ("run", "machine"):
        table.add_column(name, overflow="fold")
    for name in ("works", "read", "of the limit"):
        table.add_column(name, justify="right", no_wrap=True)
    for entry in entries:
        low, high, read = entry.lowest_of_bound, entry.highest_of_bound, entry.read_ceiling_bytes_per_s
        table.add_row(
            entry.run,
            f"{entry.machine}, {entry.threads} threads",
            str(entry.works),
            "–" if read is None else rate(read, "bytes/s"),
            "–" if low is None else f"{percent(low)} to {percent(high)}",
        )
    return Group(table, Text(), Text(HINT, style="dim"))
