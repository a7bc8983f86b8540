"""The tables of cases: what was measured, what has no time, points of load, ceilings, runs.

>>> html = "".join(case_table(shown))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import sqrt
from typing import Any

from membound.results.plain_text import as_html
from membound.results.report.cases import Place, ShownCase, interval_text, validity_text
from membound.results.report.ceilings import Ceiling
from membound.results.report.points import ShownPoint
from membound.results.report.tables import GRADE, NUMBER, SHORT, WIDE, Cell, Column, Line, table_html
from membound.results.views.table import failure
from membound.results.views.timed import half_width, notes, times_best
from membound.results.wording import amount, duration, gigabytes_per_s, percent, rate, short

SIGNS = {"clean": "●", "unknown": "○", "contended": "◐", "invalid": "✕"}
"""Grades by their sign, so that colour is not needed."""
NO_LIMIT = "no ceiling that bounds this work was measured on this device in its run"
NO_COMMAND = "another tool measured it, and its file names no command"


def case_table(shown: Sequence[ShownCase]) -> Iterator[str]:
    """Every case that has a time."""
    timed = [one for one in shown if one.time_s is not None]
    if not timed:
        yield "<p>No case has a time.</p>"
        return
    places, runs = len({one.place for one in timed}) > 1, len({one.line["run_id"] for one in timed}) > 1
    columns = [
        *([Column("machine", WIDE, chooses=True)] if places else []),
        Column("work", WIDE),
        Column("backend", SHORT, chooses=True),
        *(Column(name, NUMBER) for name in ("time", "±", "GB/s", "of the limit", "MBU", "MFU", "×best")),
        Column("bound by", SHORT, chooses=True),
        Column("validity", GRADE, chooses=True),
        *([Column("run", WIDE, chooses=True)] if runs else []),
        Column("how"),
    ]
    lines = (
        Line(
            [
                *([Cell(one.place.label)] if places else []),
                Cell(short(one.work)),
                Cell(one.backend),
                *_figures(one.line),
                Cell(str(one.line["verdict"]), hint=str(one.line["verdict_reason"])),
                Cell(f"{SIGNS[one.validity]} {one.validity}", hint=str(one.line["validity_reasons"])),
                *([Cell(str(one.line["run_id"]))] if runs else []),
                Cell("", html=_how(one)),
            ],
            one.key,
            one.validity,
        )
        for one in timed
    )
    yield from table_html("cases", f"{len(timed)} measured cases", columns, lines, filters=True)


def _figures(line: dict[str, Any]) -> list[Cell]:
    """Time, ±, GB/s, share of the limit, MBU, MFU, ×best."""
    time_s, share = line["time_s"], line["of_bound"]
    around, of_share = interval_text(line, "time"), interval_text(line, "of_bound")
    ratio, ci = line["ratio_to_fastest"], line["ratio_to_fastest_ci"]
    of_ratio = (
        f"95 % interval {ci[0]:.3g} to {ci[1]:.3g}"
        if ci
        else "no interval: the fastest, or too few processes"
    )
    bytes_per_s = line["achieved_bytes_per_s"]
    return [
        Cell(duration(time_s), time_s, around),
        Cell(half_width(line), _half(line), of_share if line["turns"] else around),
        Cell(
            gigabytes_per_s(bytes_per_s),
            bytes_per_s,
            around if bytes_per_s else "nothing says how many bytes it moves",
        ),
        Cell(percent(share), share, NO_LIMIT if share is None else of_share),
        *(
            Cell(percent(line[name]), line[name], NO_LIMIT if line[name] is None else of_share)
            for name in ("mbu", "mfu")
        ),
        Cell(times_best(line), ratio, of_ratio),
    ]


def _half(line: dict[str, Any]) -> float | None:
    """The width that ± sorts by; None where there is none."""
    ci = line["of_bound_ci"] if line["turns"] and line["of_bound_ci"] else line["time_ci_s"]
    return None if ci is None else (ci[1] - ci[0]) / (2 * sqrt(ci[0] * ci[1]))


def _how(one: ShownCase) -> str:
    """The command that measures it again, with the intervals and what is to know besides."""
    line = one.line
    told = [f"Time: {interval_text(line, 'time')}."]
    if line["of_bound"] is not None:
        told.append(f"Share of the limit: {interval_text(line, 'of_bound')}.")
    told += [f"{validity_text(line)}.", f"{line['verdict_reason']}." if line["verdict_reason"] else ""]
    told += [f"{note}." for note in notes(line) if note not in ("contended", "invalid")]
    told.append(f"Run {line['run_id']}.")
    command = f"<code>{as_html(one.command)}</code>" if one.command else f"– ({NO_COMMAND})"
    hint = as_html(validity_text(line))
    label = as_html(f"how {one.backend} on {short(one.work)} was measured")
    return (
        f'<details data-v="{hint}"><summary aria-label="{label}">how</summary>'
        f"<div>{command}<br>{as_html(' '.join(filter(None, told)))}</div></details>"
    )


def absent_table(shown: Sequence[ShownCase]) -> Iterator[str]:
    """Every case without a time, and why."""
    absent = [one for one in shown if one.time_s is None]
    if not absent:
        yield "<p>Every case has a time.</p>"
        return
    columns = [
        Column("machine", WIDE, chooses=True),
        Column("work", WIDE),
        Column("backend", SHORT, chooses=True),
        Column("status", SHORT, chooses=True),
        Column("time", NUMBER),
        Column("why", WIDE),
    ]
    lines = (
        Line(
            [
                Cell(one.place.label),
                Cell(short(one.work)),
                Cell(one.backend),
                Cell(str(one.line["status"])),
                Cell("–", hint=failure(one.line)),
                Cell(str(one.line["reason"] or failure(one.line))),
            ],
            one.key,
        )
        for one in absent
    )
    yield from table_html("absent", f"{len(absent)} cases without a time", columns, lines, filters=True)


def ceiling_table(ceilings: Mapping[Place, Mapping[str, Ceiling]]) -> Iterator[str]:
    """Every measured ceiling with its spread."""
    columns = [
        Column("machine", WIDE),
        Column("ceiling", SHORT),
        *(Column(name, NUMBER) for name in ("median or best", "lowest", "highest", "measurements")),
        Column("through", SHORT),
    ]
    lines = (
        Line(
            [
                Cell(place.label),
                Cell(one.name),
                *(Cell(rate(value, one.unit), value, one.text) for value in (one.middle, one.low, one.high)),
                Cell(str(one.count), float(one.count)),
                Cell(one.through),
            ]
        )
        for place, known in ceilings.items()
        for one in known.values()
    )
    yield from table_html("ceilings", "Measured ceilings", columns, lines)


def point_table(points: Sequence[ShownPoint]) -> Iterator[str]:
    """Every point of load."""
    columns = [
        Column("load", WIDE),
        Column("server", WIDE, chooses=True),
        *(
            Column(name, NUMBER)
            for name in ("due/s", "answered/s", "tokens/s", "first token", "99 %", "a token")
        ),
        Column("goodput", NUMBER),
        Column("failed", NUMBER),
        Column("validity", GRADE, chooses=True),
        Column("how"),
    ]
    lines = (Line(list(_point_cells(one)), one.key, str(one.record["validity"])) for one in points)
    yield from table_html("loads", f"{len(points)} points of load", columns, lines, filters=True)


def _point_cells(one: ShownPoint) -> Iterator[Cell]:
    x = one.record
    yield from (Cell(str(x["work"])), Cell(one.server))
    missing = str(x["reason"] or "nothing was due in the window")
    for name in ("due_per_s", "ok_per_s"):
        yield Cell("–" if x[name] is None else f"{x[name]:.3g}", x[name], missing if x[name] is None else "")
    tokens = x["output_tokens_per_s"]
    yield Cell("–" if tokens is None else amount(tokens, ""), tokens, missing if tokens is None else "")
    for name in ("ttft_p50", "ttft_p99", "tpot_p50"):
        seconds, ci = x.get(f"{name}_s"), x.get(f"{name}_ci_s")
        why = (
            "no interval: too few blocks of the window tell it"
            if ci is None
            else f"95 % interval {duration(ci[0], 3)} to {duration(ci[1], 3)}"
        )
        yield Cell(duration(seconds, 3), seconds, "too few answers to tell it" if seconds is None else why)
    share = x["goodput_share"]
    yield Cell(
        percent(share),
        share,
        f"under {x['slo']}" if share is not None else "no service level was named (--slo)",
    )
    outcomes = x["outcomes"] or {}
    lost = sum(count for outcome, count in outcomes.items() if outcome != "ok")
    told = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items() if outcome != "ok")
    yield Cell(str(lost), float(lost), told)
    reasons = "; ".join(x["validity_reasons"] or ())
    yield Cell(f"{SIGNS[str(x['validity'])]} {x['validity']}", hint=reasons)
    command = f"<code>{as_html(one.command)}</code>" if one.command else f"– ({NO_COMMAND})"
    label = as_html(f"how {one.server} under {x['work']} was measured")
    yield Cell(
        "",
        html=f'<details data-v="{as_html(reasons)}"><summary aria-label="{label}">how</summary><div>{command}</div></details>',
    )


def run_table(shown: Sequence[ShownCase]) -> Iterator[str]:
    """Every run that has cases, as it was made."""
    columns = [
        Column("run", WIDE),
        Column("machine", WIDE),
        Column("began", SHORT),
        Column("cases", NUMBER),
        Column("packages", WIDE),
    ]
    groups: dict[tuple[str, Place], list[ShownCase]] = {}
    for one in shown:
        groups.setdefault((str(one.line["run_id"]), one.place), []).append(one)
    lines = (
        Line(
            [
                Cell(run),
                Cell(place.label),
                Cell(
                    some[0].started_at[:19].replace("T", " ") or "–",
                    hint="" if some[0].started_at else "its file does not say",
                ),
                Cell(str(len(some)), float(len(some))),
                Cell(", ".join(f"{name} {version}" for name, version in _versions(some).items()) or "–"),
            ]
        )
        for (run, place), some in groups.items()
    )
    yield from table_html("runs", "Runs", columns, lines)


def _versions(shown: Sequence[ShownCase]) -> dict[str, str]:
    return {name: version for one in shown for name, version in one.versions.items()}
