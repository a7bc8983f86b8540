"""Tables of the page: cells with their hints, that sort, filter and, on a phone, become cards.

>>> "".join(table_html("runs", "Runs", [Column("run"), Column("cases", NUMBER)], rows))

Without the script (page.js) all rows are there in their order, and `how` opens by itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from membound.results.plain_text import as_html

NUMBER, WIDE, SHORT, GRADE = "n", "w", "k", "g"
"""Classes of columns: figures to the right, long texts, texts that stay on a line, grades."""


@dataclass(frozen=True, slots=True)
class Column:
    """A heading. `chooses`: there is a list of its values to choose one from."""

    name: str
    kind: str = ""
    chooses: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """What stands in a cell. A figure has a value to sort by, and a hint: its interval, or why it is missing."""

    text: str
    value: float | None = None
    hint: str = ""
    html: str = ""
    """Finished HTML in place of the text."""


@dataclass(frozen=True, slots=True)
class Line:
    """A row of a table; `key` is its anchor, `grade` its class."""

    cells: Sequence[Cell]
    key: str = ""
    grade: str = ""


def table_html(
    name: str, caption: str, columns: Sequence[Column], lines: Iterable[Line], filters: bool = False
) -> Iterator[str]:
    """The table with its own style for phones. `name` is its anchor."""
    classes = "cards sorts filters-here" if filters else "cards sorts"
    yield f"<style>{_labels(name, columns)}</style>"
    yield f'<div class=scroll tabindex=0 role=region aria-label="{as_html(caption)}">'
    yield f'<table id="{name}" class="{classes}"><caption>{as_html(caption)}</caption><thead><tr>'
    for one in columns:
        choose = f' data-choose="{as_html(one.name)}"' if one.chooses else ""
        kind = f" class={one.kind}" if one.kind else ""
        yield f"<th scope=col{kind}{choose}>{as_html(one.name)}</th>"
    yield "</tr></thead><tbody>"
    for line in lines:
        key = f" id={line.key}" if line.key else ""
        grade = f" class={line.grade}" if line.grade else ""
        cells = "".join(_cell(cell, column) for cell, column in zip(line.cells, columns, strict=True))
        yield f"<tr{key}{grade}>{cells}</tr>"
    yield "</tbody></table></div>"


def _cell(cell: Cell, column: Column) -> str:
    kinds = " ".join(filter(None, (column.kind, "f" if cell.hint else "")))
    attributes = f' class="{kinds}"' if " " in kinds else f" class={kinds}" if kinds else ""
    if cell.value is not None:
        attributes += f" data-n={cell.value:.5g}"
    if cell.hint:
        attributes += f' data-t="{as_html(cell.hint)}"'
    return f"<td{attributes}>{cell.html or as_html(cell.text)}</td>"


def _labels(name: str, columns: Sequence[Column]) -> str:
    """What stands before each cell of a card."""
    rules = (
        f"#{name} td:nth-child({number})::before{{content:{json.dumps(one.name, ensure_ascii=False)}}}"
        for number, one in enumerate(columns, 1)
    )
    return f"@media(max-width:40rem){{{''.join(rules)}}}"
