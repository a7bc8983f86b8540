"""Comparisons for terminals and as Markdown: what it comes to, then the pairs, then what has no partner and why.

>>> print(comparison_markdown(pairs, groups, without_partner))

All three are records of the parts of a `compare.Comparison`. Of a long comparison the pairs that differ most are shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import log
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from membound.results.plain_text import as_markdown, markdown_record
from membound.results.views.markdown import LEFT, RIGHT, table_lines
from membound.results.views.timed import number_column
from membound.results.wording import duration, short

Record = dict[str, Any]

MOST_PAIRS = 200
"""Pairs that are shown. More of them nobody reads, and a terminal takes minutes to lay them out."""
MOST_ALONE = 20
LEGEND = (
    "B/A: time of B over time of A, below 1 B is faster; interval: 95 % over processes. B is called faster or slower only "
    "where the interval excludes 1, by at least its nearer end, and the same where all of it lies within 5 % of 1. "
    "Geometric means are of these works."
)


def comparison_view(
    pairs: Sequence[Record], groups: Sequence[Record] = (), alone: Sequence[Record] = (), doubt: str = ""
) -> Group:
    """The comparison for a terminal."""
    parts: list[RenderableType] = [
        Text(f"{title} {', '.join(names)}", style="bold") for title, names in _runs(pairs)
    ]
    if doubt:
        parts.append(Text(doubt, style="yellow"))
    parts += [Text(), *(Text(sentence) for sentence in _sentences(groups))]
    if groups:
        parts.append(Text())
    shown = _most_telling(pairs)
    for work in dict.fromkeys(x["work"] for x in shown):
        parts += _of_work([x for x in shown if x["work"] == work])
    parts += [Text(line, style="yellow") for line in (*_left_out(pairs, shown), *_alone(alone))]
    return Group(*parts, Text(LEGEND, style="dim"))


def _runs(pairs: Sequence[Record]) -> Iterator[tuple[str, list[str]]]:
    """The runs of the sides; of one run, that alone."""
    a, b = (list(dict.fromkeys(x[f"run_{side}"] for x in pairs)) for side in "ab")
    yield from [("run", a)] if a == b else [("A: run", a), ("B: run", b)]


def _sentences(groups: Sequence[Record]) -> Iterator[str]:
    """What the groups come to: ``linear: B takes 0.92 of A's time (0.90–0.95, …)``."""
    several = len({(x["a"], x["b"]) for x in groups}) > 1
    for x in groups:
        who = f"{x['b']} against {x['a']}, " if several else ""
        of = f"{x['pairs']} pair{'s' * (x['pairs'] != 1)}"
        counted = ", ".join(
            f"{x[key]} {word}"
            for key, word in (
                ("faster", "faster"),
                ("slower", "slower"),
                ("same", "the same"),
                ("open", "open"),
            )
            if x[key]
        )
        yield (f"{who}{x['group']}: geometric mean of B/A {_ratio(x)}, {x['words']}; {of}: {counted}")


def _ratio(x: Record) -> str:
    return f"{x['time_ratio']:.3g} ({interval(x)})" if x["time_ratio_ci"] else f"{x['time_ratio']:.3g}"


def interval(x: Record) -> str:
    """The interval of a ratio; ``–`` without one."""
    ci = x["time_ratio_ci"]
    return "–" if ci is None else f"{ci[0]:.3g}–{ci[1]:.3g}"


def _most_telling(pairs: Sequence[Record]) -> list[Record]:
    """All, or those whose intervals are farthest from 1, in the order of the works."""
    if len(pairs) <= MOST_PAIRS:
        return list(pairs)
    ranked = sorted(range(len(pairs)), key=lambda i: -_distance(pairs[i]))[:MOST_PAIRS]
    return [pairs[i] for i in sorted(ranked)]


def _distance(x: Record) -> float:
    """How far from 1 the nearer end of the interval is, as a logarithm; less than 0 where it contains 1."""
    if x["time_ratio_ci"] is None:
        return -1.0 if x["time_ratio"] is None else -0.5
    low, high = map(log, x["time_ratio_ci"])
    return max(low, -high)


def _left_out(pairs: Sequence[Record], shown: Sequence[Record]) -> Iterator[str]:
    if len(pairs) > len(shown):
        yield f"{len(pairs) - len(shown)} more pairs, which differ less: --json has all"


def _alone(alone: Sequence[Record]) -> Iterator[str]:
    """Cases that have no partner, with the differing field."""
    for x in alone[:MOST_ALONE]:
        threads = f", {x['threads']} threads" if x["threads"] else ""
        yield f"only in {x['side']}: {x['backend']} {short(x['work'])}{threads}; {x['why']}"
    if len(alone) > MOST_ALONE:
        yield f"{len(alone) - MOST_ALONE} more without a partner: --json has all"


def _of_work(lines: list[Record]) -> list[RenderableType]:
    """One work: pairs with a ratio as a table, the others as sentences."""
    parts: list[RenderableType] = [Text(lines[0]["work"], style="bold")]
    rated = [x for x in lines if x["time_ratio"] is not None]
    if rated:
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
        table.add_column("A · B", overflow="fold", max_width=24)
        for name, size in (("time A", 8), ("time B", 8), ("B/A", 5), ("interval", 11)):
            number_column(table, name, size)
        table.add_column("B is", overflow="fold")
        for x in rated:
            table.add_row(
                pair(x),
                duration(x["time_a_s"]),
                duration(x["time_b_s"]),
                f"{x['time_ratio']:.3g}",
                interval(x),
                x["words"],
            )
        parts.append(table)
    parts += [Text(f"{pair(x)} no ratio; {x['note']}", style="yellow") for x in lines if x not in rated]
    return [*parts, Text()]


def pair(line: Record) -> str:
    """Who is compared: two backends, or one in two runs."""
    a, b = line["backend_a"], line["backend_b"]
    return str(a) if a == b else f"{a} · {b}"


def comparison_markdown(
    pairs: Iterable[Record], groups: Iterable[Record] = (), alone: Iterable[Record] = (), doubt: str = ""
) -> str:
    """The comparison as Markdown: a line for each group and each pair."""
    found, means, lonely = ([markdown_record(x) for x in part] for part in (pairs, groups, alone))
    sides = " · ".join(
        f"{side}: `{'`, `'.join(dict.fromkeys(x[f'run_{side.lower()}'] for x in found))}`" for side in "AB"
    )
    lines = [f"### {sides}", "", *([as_markdown(doubt), ""] if doubt else [])]
    if means:
        lines += table_lines(
            ("group", "A", "B", "pairs", "geometric mean of B/A", "interval", "B is"),
            (LEFT, LEFT, LEFT, *(RIGHT,) * 3, LEFT),
            (
                [
                    x["group"],
                    x["a"],
                    x["b"],
                    str(x["pairs"]),
                    f"{x['time_ratio']:.3g}",
                    interval(x),
                    x["words"],
                ]
                for x in means
            ),
        )
    shown = _most_telling(found)
    lines += table_lines(
        ("work", "A · B", "time A", "time B", "B/A", "interval", "B is"),
        (LEFT, LEFT, *(RIGHT,) * 4, LEFT),
        (_cells(x) for x in shown),
    )
    told = [*_left_out(found, shown), *_alone(lonely)]
    return "\n".join([*lines, *(f"- {text}" for text in told), *([""] if told else []), LEGEND, ""])


def _cells(x: Record) -> list[str]:
    if x["time_ratio"] is None:
        return [f"`{short(x['work'])}`", pair(x), "", "", "", "", f"no ratio; {x['note']}"]
    return [
        f"`{short(x['work'])}`",
        pair(x),
        duration(x["time_a_s"]),
        duration(x["time_b_s"]),
        f"{x['time_ratio']:.3g}",
        interval(x),
        x["words"],
    ]
