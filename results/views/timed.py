"""The measured backends of one work: figures of a line, and the table of them, on a terminal of any width.

>>> Console().print(Timed(lines, width=20))
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from membound.results.wording import duration, gigabytes_per_s, percent

NARROW = 80
"""Columns that are always enough. With fewer, notes stand below a table."""
WIDEST_BACKEND = 21
"""Columns that a backend's name takes in one line: with NARROW columns "contended" still fits beside it."""
NARROWEST = 58
"""Columns that a table needs; with fewer, each backend is a sentence."""


@dataclass(frozen=True, slots=True)
class Timed:
    """The measured backends of a work. Where a line has no room for notes, they stand below the table."""

    lines: list[dict[str, Any]]
    width: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if options.max_width < NARROWEST:
            yield from (Text(_in_words(x)) for x in self.lines)
            return
        narrow = options.max_width < NARROW
        yield self._table(narrow)
        if narrow:
            for x in self.lines:
                if found := ", ".join(notes(x)):
                    yield Text(f"{x['backend']}: {found}")

    def _table(self, narrow: bool) -> Table:
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim", expand=not narrow)
        if narrow:
            table.add_column("backend", min_width=6, overflow="fold")
        else:
            table.add_column("backend", width=self.width, overflow="fold")
        for name, size in (("time", 8), ("±", 4), ("GB/s", 5), ("MBU", 4), ("MFU", 4), ("×best", 5)):
            number_column(table, name, size)
        table.add_column("verdict", width=12, overflow="fold")
        if not narrow:
            table.add_column("notes", ratio=1, overflow="fold")
        for x in self.lines:
            row = [
                x["backend"],
                duration(x["time_s"]),
                half_width(x),
                gigabytes_per_s(x["achieved_bytes_per_s"]),
                percent(x["mbu"]),
                percent(x["mfu"]),
                times_best(x),
                x["verdict"],
            ]
            table.add_row(*row, *(() if narrow else (", ".join(notes(x)),)))
        return table


def _in_words(x: dict[str, Any]) -> str:
    """The figures of a line with their names."""
    figures = {
        "±": half_width(x),
        "GB/s": gigabytes_per_s(x["achieved_bytes_per_s"]),
        "MBU": percent(x["mbu"]),
        "MFU": percent(x["mfu"]),
        "×best": times_best(x),
    }
    told = (f"{name} {figure}" for name, figure in figures.items() if figure != "–")
    return f"{x['backend']}: {', '.join((duration(x['time_s']), *told, x['verdict'], *notes(x)))}"


def number_column(table: Table, name: str, size: int | None = None) -> None:
    """A column of figures: wherever there is room they stand in one line, and nothing of them is ever cut."""
    table.add_column(name, width=size, justify="right", overflow="fold")


def notes(line: dict[str, Any]) -> Iterator[str]:
    """What to know of a time beside the figures: disturbed, above a ceiling, other bytes."""
    if line["status"] != "ok":
        yield f"{line['status']} in {line['reason'].partition(':')[0]}"
    if line["validity"] in ("contended", "invalid"):
        yield str(line["validity"])
    if line["above_ceiling"]:
        yield "above ceiling"
    if line["ceiling_fall"]:
        yield f"ceiling {percent(line['ceiling_fall'])} lower after it"
    if line["stored_bytes"] and round(line["stored_bytes"] / line["bytes"], 1) != 1.0:
        yield f"streams {line['stored_bytes'] / line['bytes']:.2g}× bytes"
    if line["device_time_s"]:
        share = f" ({percent(line['device_of_bound'])})" if line["device_of_bound"] else ""
        yield f"device {duration(line['device_time_s'])}{share}"
    if line["predicted_s"]:
        yield f"predicted {duration(line['predicted_s'])} by ranks and link"
    if line["memory_ceiling"] != "read":
        yield f"of {line['memory_ceiling']}"
    if line["energy_per_token_j"]:
        yield f"{line['energy_per_token_j']:.3g} J a token"


def half_width(line: dict[str, Any]) -> str:
    """Half of the 95 % interval of the share of the limit, of the time where there is none; ``–`` with too few processes."""
    ci, middle = (line["of_bound_ci"], line["of_bound"]) if line["turns"] else (None, None)
    if ci is None:
        ci, middle = line["time_ci_s"], line["time_s"]
    return "–" if ci is None else f"{(ci[1] - ci[0]) / 2 / middle:.0%}"


def times_best(line: dict[str, Any]) -> str:
    """Time over the fastest's; with ``~`` where the interval does not tell them apart."""
    ci = line["ratio_to_fastest_ci"]
    same = "~" if ci is not None and ci[0] <= 1 <= ci[1] else ""
    return f"{same}{line['ratio_to_fastest']:.2f}"
