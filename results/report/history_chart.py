"""A case over its runs, in order of time, with the runs at which it changed.

>>> figures = list(history_figures(alt, shown))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from membound.results.change_points import FEWEST_RUNS, Change, change_points
from membound.results.frame import frame
from membound.results.report.cases import Place, ShownCase, marked
from membound.results.report.drawing import COLORS, WIDTH, Figure, look_of_marks, scale_of
from membound.results.report.room import of_leading_backends
from membound.results.wording import percent, short

FAMILY = "History"
FEWEST = 2
MOST = 8
"""Charts; the works with the most runs are drawn."""
HEIGHT = 180
CAPTION = (
    "Time in each run, oldest first, with its 95 % interval over processes. A change is marked where the runs before and after "
    f"differ by more than a random order of them would (p ≤ 0.05) and by 5 % or more; that takes {FEWEST_RUNS} runs. A time changes "
    "with the machine too: what the limit allowed is in the hint of each mark."
    " Lighter marks were disturbed."
)
COLUMNS = ["backend", "run", "time_ms", "low_ms", "high_ms", "validity", "tip"]


def history_figures(alt: Any, shown: Sequence[ShownCase]) -> Iterator[Figure]:
    """A chart for each work of a place that was measured in two or more runs."""
    groups: dict[tuple[Place, str], list[ShownCase]] = {}
    for one in shown:
        if one.time_s:
            groups.setdefault((one.place, one.work), []).append(one)
    repeated = {key: some for key, some in groups.items() if _runs(some) >= FEWEST}
    if not repeated:
        why = "no work was measured on the same machine with as many threads in two of these runs"
        yield Figure("history", FAMILY, "", CAPTION, absent=why)
    ranked = sorted(repeated.items(), key=lambda pair: -_runs(pair[1]))
    for number, ((place, work), some) in enumerate(ranked[:MOST], 1):
        drawn, left_out = of_leading_backends(some)
        found = changes_of(drawn)
        title = f"{short(work)}, {place.label}"
        caption = f"{CAPTION} {_words(drawn, found)}{left_out}"
        yield Figure(f"history-{number}", FAMILY, title, caption, _chart(alt, drawn, found))
    if len(ranked) > MOST:
        why = f"{len(ranked) - MOST} more works; a report of fewer works draws them"
        yield Figure("history-more", FAMILY, "", CAPTION, absent=why)


def _runs(shown: Sequence[ShownCase]) -> int:
    return len({one.line["run_id"] for one in shown})


def changes_of(shown: Sequence[ShownCase]) -> list[tuple[ShownCase, Change]]:
    """Every change of every backend, with the case of its first run after it."""
    found = []
    for backend in dict.fromkeys(one.backend for one in shown):
        series = [one for one in shown if one.backend == backend]
        changes = change_points([one.time_s for one in series if one.time_s])
        found += [(series[change.at], change) for change in changes]
    return found


def _words(shown: Sequence[ShownCase], found: Sequence[tuple[ShownCase, Change]]) -> str:
    if _runs(shown) < FEWEST_RUNS:
        return f"{_runs(shown)} runs are too few to tell changes."
    if not found:
        return "No change is found."
    told = (
        f"{one.backend} took {percent(abs(change.ratio - 1))} {'more' if change.ratio > 1 else 'less'} time "
        f"from {label_of(one)} on"
        for one, change in found
    )
    return f"{'; '.join(told)}."


def label_of(one: ShownCase) -> str:
    """A run by its commit, if it names one, else by the time at which it began, else by its name."""
    commit, dirty, _ = one.versions.get("commit", "").partition("-dirty")
    return commit[:9] + dirty or one.started_at[:16].replace("T", " ") or str(one.line["run_id"])


def _chart(alt: Any, shown: Sequence[ShownCase], found: Sequence[tuple[ShownCase, Change]]) -> Any:
    runs = list(dict.fromkeys(one.line["run_id"] for one in shown))
    names = {one.line["run_id"]: label_of(one) for one in shown}
    if len(set(names.values())) < len(runs):
        names = {run: f"{names[run]} ({number})" for number, run in enumerate(runs, 1)}
    table = frame([_line(one, names) for one in shown], COLUMNS)
    x = alt.X(
        "run:N", title=None, sort=[names[run] for run in runs], axis=alt.Axis(labelAngle=-40, labelLimit=140)
    )
    scale = alt.Scale(zero=False, nice=True)
    base = alt.Chart(table)
    color = alt.Stroke("backend:N", title="backend", scale=scale_of(alt, table.backend))
    layers = [
        base.mark_line(strokeWidth=1.5, aria=False).encode(x, alt.Y("time_ms:Q", scale=scale), color),
        base.mark_rule(strokeWidth=1.5, aria=False).encode(
            x, alt.Y("low_ms:Q", scale=scale), color, y2="high_ms:Q"
        ),
        base.mark_point(size=45, opacity=1).encode(
            x, alt.Y("time_ms:Q", title="time, ms", scale=scale), *look_of_marks(alt, table)
        ),
    ]
    if found:
        marked = pd.DataFrame({"run": [names[one.line["run_id"]] for one, _ in found]})
        layers.append(
            alt.Chart(marked)
            .mark_rule(strokeDash=[4, 3], strokeWidth=1.5, color=COLORS[1], aria=False)
            .encode(x)
        )
    return alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)


def _line(one: ShownCase, names: dict[str, str]) -> dict[str, Any]:
    time_s = one.time_s or 0.0
    low, high = one.line["time_ci_s"] or (time_s, time_s)
    return {
        "backend": one.backend,
        "run": names[one.line["run_id"]],
        "time_ms": 1e3 * time_s,
        "low_ms": 1e3 * low,
        "high_ms": 1e3 * high,
        "validity": one.validity,
        "tip": marked(one),
    }
