"""Columns of plain text, without the library of tables, whose import takes longer than reading a catalogue.

>>> columns(["name", "GB/s"], [["a100", "2039"]], "<>")
['name  GB/s', 'a100  2039']
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from membound.results.plain_text import in_one_line

WIDTH = 80


def columns(header: Sequence[str], lines: Sequence[Sequence[str]], aligned: str) -> list[str]:
    """Lines of a table with its header; `aligned` has ``<`` or ``>`` for each column.

    Two spaces stand between columns, or one where two would make it wider than WIDTH.
    """
    table = [header, *([in_one_line(cell) for cell in line] for line in lines)]
    widths = [max(len(line[i]) for line in table) for i in range(len(header))]
    gap = "  " if sum(widths) + 2 * (len(widths) - 1) <= WIDTH else " "
    return [
        gap.join(f"{c:{a}{w}}" for c, a, w in zip(line, aligned, widths, strict=True)).rstrip()
        for line in table
    ]


def wrapped(text: str, indent: str = "") -> list[str]:
    """A sentence on lines of at most WIDTH characters; further lines are indented."""
    return textwrap.wrap(
        text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
