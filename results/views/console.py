"""The console that views are printed on: text from outside stays text, within its line.

>>> PlainConsole(stderr=True).print("[red]not red[/red]")
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from membound.results.plain_text import printable


class PlainConsole(Console):
    """A console that takes text as it is: no markup, no emoji codes, no control sequences, no lines of its own.

    What is to stand on several lines is printed as several texts: a name with the end of a line in it would else put what
    follows it where our own words stand, or a program's that reads line by line.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """A string of a cell, a title, or what was printed, as rich asks for it."""
        return super().render_str(_in_one_line(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Called for everything that stands in anything else."""
        if isinstance(renderable, Text):
            renderable = _one_line(renderable)
        elif isinstance(renderable, Table):  # it measures its cells before it renders them
            for column in renderable.columns:
                column._cells = [_one_line(c) if isinstance(c, Text) else c for c in column._cells]
        return super().render(renderable, options)

    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        """What goes to the file; segments with `control` are rich's own and move the cursor."""
        return super()._render_buffer(
            s if s.control else Segment(printable(s.text, self.encoding), s.style) for s in buffer
        )


def _in_one_line(text: str) -> str:
    return text.replace("\n", "\\n")


def _one_line(text: Text) -> Text:
    if "\n" not in text.plain:
        return text
    shown = text.blank_copy()
    for number, part in enumerate(text.split("\n", allow_blank=True)):
        if number:
            shown.append("\\n")
        shown.append_text(part)
    return shown
