"""What is shown of a soak, also of one that was ended before its first pass was."""

from __future__ import annotations

import io

from rich.console import Console, Group

from membound.results.soak.reading import Pass, Reading
from membound.results.views.soak import soak_view

PASS = Pass("a-run", 60.0, 4, 4, 0, 0, {}, Reading(1 << 20, 10, 3, 0, 0, 5))


def shown(view: Group) -> list[str]:
    console = Console(file=io.StringIO(), width=80)
    console.print(view)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in text.splitlines()]


def test_a_soak_without_a_whole_pass_says_so_and_nothing_else() -> None:
    assert shown(soak_view([], [], ["0 passes cannot tell a leak from chance."])) == [
        "no pass was finished: nothing can be told"
    ]


def test_one_pass_is_the_second_the_last_and_the_most() -> None:
    lines = shown(soak_view([PASS], [], []))
    assert lines[0] == "nothing found in 1 pass in 1.0 minutes: 4 rows, none lost"
    assert ["open", "descriptors", "10", "10", "10"] in [line.split() for line in lines]
