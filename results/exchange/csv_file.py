"""The summary as CSV: a line a case, a column a figure of `stats.COLUMNS`, intervals in two columns.

>>> path.write_text(csv_text(rows))

A spreadsheet takes a cell that begins with ``=``, ``+``, ``-`` or ``@`` for a formula. Texts come from strangers, so such a
text gets an apostrophe before it, which spreadsheets do not show; `plain_text_of` takes it off again.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any

from membound.results.plain_text import visible
from membound.results.row import Row
from membound.results.stats import COLUMNS, records, summarize

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "'", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""With the full-width forms of the first four, which spreadsheets of some locales take for them."""
ENDS = ("_low", "_high")
INTERVALS = tuple(name for name in COLUMNS if name.endswith(("_ci_s", "_ci")))


def csv_text(rows: Iterable[Row]) -> str:
    """The table; what is missing is an empty cell."""
    out = io.StringIO()
    names = [n for name in COLUMNS for n in ([name + end for end in ENDS] if name in INTERVALS else [name])]
    table = csv.DictWriter(out, names, lineterminator="\n")
    table.writeheader()
    for line in records(summarize(rows)):
        for name in INTERVALS:
            ends = line.pop(name) or (None, None)
            line |= {name + end: value for end, value in zip(ENDS, ends, strict=True)}
        table.writerow({name: _cell(value) for name, value in line.items()})
    return out.getvalue()


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if text.startswith(FORMULA) else text


def plain_text_of(cell: str) -> str:
    """The text that a cell was made from."""
    return cell.removeprefix("'")
