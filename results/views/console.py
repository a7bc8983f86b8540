"""The console that views are printed on: text from outside stays text.

>>> PlainConsole(stderr=True).print("[red]not red[/red]")
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.segment import Segment

from membound.results.plain_text import visible


class PlainConsole(Console):
    """A console that takes text as it is: no markup, no emoji codes, no control sequences."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        """What goes to the file; segments with `control` are rich's own and move the cursor."""
        return super()._render_buffer(
            s if s.control else Segment(visible(s.text, self.encoding), s.style) for s in buffer
        )
