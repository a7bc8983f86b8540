"""Runs and comparisons as text: 80 columns are enough, colour only on a terminal.

>>> from rich.console import Console
>>> Console().print(run_view(rows))

Times are medians over processes; GB/s is 1e9 bytes a second; MBU and MFU are shares of the ceilings measured beside
each time.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from membound.results.roofline import best_ceilings, compute_ceilings
from membound.results.row import Row
from membound.results.stats import records, summarize
from membound.results.views.sentences import sentences
from membound.results.views.serving import serving_view
from membound.results.views.timed import NARROW, WIDEST_BACKEND, Timed, notes, number_column
from membound.results.wording import amount, duration, gigabytes_per_s, percent, rate, short

ABSENT = ("unsupported", "unavailable")
LEGEND = (
    "time: median over processes. GB/s: 1e9 bytes of the work a second. MBU, MFU: share of the read bandwidth and of "
    "the peak of that arithmetic, measured beside each time; the larger is how much of the machine's limit is reached "
    "(±: half of its 95 % interval). ×best: time over the fastest backend's, in the same rounds (~: the interval does "
    "not tell them apart)."
)


def run_view(rows: Sequence[Row], ceilings: bool = False, steps: Sequence[Row] = ()) -> Group:
    """The ceilings that the verdicts use, a table for each work with its backends fastest first, what could not run.

    Then what it came to, in sentences, and the legend. `ceilings`: all of them, as they were reached. `steps`: cases of other
    runs, in which points of load may find their engine's step.
    """
    parts: list[RenderableType] = []
    runs = list(dict.fromkeys(row.run_id for row in rows))
    for run in runs:
        parts += _run([row for row in rows if row.run_id == run], ceilings, steps)
    if not rows:
        parts.append(Text("no rows: nothing was measured"))
    elif any(row.kind != "serving" for row in rows):
        parts.append(Text(LEGEND, style="dim"))
    return Group(*parts)


def machine_of(rows: Sequence[Row]) -> str:
    """The processor of a run and its threads, which rows of other tools do not have."""
    machine = next((str(r.machine["cpu"]) for r in rows if r.machine.get("cpu")), "unknown machine")
    threads = max(r.threads for r in rows)
    return f"{machine}, {threads} thread{'s' * (threads != 1)}" if threads else machine


def _run(rows: list[Row], ceilings: bool, steps: Sequence[Row]) -> list[RenderableType]:
    lines = records(summarize(rows))
    title = Text(f"run {rows[0].run_id}, {machine_of(rows)}", style="bold")
    parts: list[RenderableType] = [title, Text()]
    parts += _ceilings(rows) if ceilings else _used_ceilings(rows, lines)
    width = min(WIDEST_BACKEND, max((len(line["backend"]) for line in lines), default=0))
    works = dict.fromkeys(line["work"] for line in lines)
    for work in works:
        parts += _work([line for line in lines if line["work"] == work], width)
    said: list[RenderableType] = [Text(sentence) for sentence in sentences(lines)]
    parts += [*_absent(lines), *_doubts(lines), *said, *([Text()] if said else [])]
    return [*parts, serving_view([*rows, *steps])] if any(row.kind == "serving" for row in rows) else parts


def _used_ceilings(rows: list[Row], lines: list[dict[str, Any]]) -> list[RenderableType]:
    """A line a ceiling that shares are of: its median where it took turns, and how far it moved."""
    lost: list[RenderableType] = [Text(text, style="red") for text in lost_ceilings(rows)]
    parts: list[RenderableType] = [
        Text.assemble((f"{name:10}", "bold"), what) for name, what in used_ceilings(rows, lines)
    ]
    return [*parts, *lost, Text()] if parts or lost else []


def used_ceilings(rows: Sequence[Row], lines: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Names of the ceilings that the shares of these cases are of, each with its figure."""
    timed = [line for line in lines if line["time_s"] is not None]
    names = {line["memory_ceiling"] for line in timed}
    for work in {line["work"] for line in timed}:
        names |= set(compute_ceilings(work))
    for value, row in best_ceilings(rows):
        if row.work not in names:
            continue
        names.discard(row.work)
        in_turn = [r for r in rows if r.kind == "ceiling" and r.work == row.work and "turns" in r.config]
        if not in_turn:
            yield row.work, f"{rate(value, row.unit)} through {row.backend}, before the works"
            continue
        low, high = min(r.config["lowest"] for r in in_turn), max(r.config["highest"] for r in in_turn)
        turns = sum(r.config["turns"] for r in in_turn)
        middle = median(r.value for r in in_turn if r.value is not None)
        span = f"{rate(low, row.unit)} to {rate(high, row.unit)}"
        yield row.work, f"{rate(middle, row.unit)} ({span} in {turns} turns)"


def lost_ceilings(rows: Sequence[Row]) -> Iterator[str]:
    """Ceilings that could not be measured, and why."""
    failed = (r for r in rows if r.kind == "ceiling" and r.status not in ("ok", *ABSENT))
    yield from (f"{r.work} {r.status}: {r.reason}" for r in failed)


def _ceilings(rows: list[Row]) -> list[RenderableType]:
    """Each measured limit with the sizes and streams behind it."""
    best = best_ceilings(rows)
    lost: list[RenderableType] = [Text(text, style="red") for text in lost_ceilings(rows)]
    if not best:
        return [*lost, Text()] if lost else []
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("ceiling")
    number_column(table, "measured")
    table.add_column("through")
    table.add_column("with", overflow="fold")
    for value, row in best:
        table.add_row(row.work, rate(value, row.unit), row.backend, ceiling_config(row.config))
    return [table, *lost, Text()]


def ceiling_config(config: dict[str, Any]) -> str:
    """How a ceiling was reached: the pattern, its array sizes, its threads."""
    parts = [str(config["variant"])] if "variant" in config else []
    if "array_bytes" in config:
        count = config.get("arrays", 1)
        parts.append(f"{f'{count} × ' if count > 1 else ''}{amount(config['array_bytes'], 'B')}")
    if config.get("rotation_bytes", 0) > config.get("array_bytes", 0) * config.get("arrays", 1):
        parts.append(f"of {amount(config['rotation_bytes'], 'B')} rotating")
    if "work" in config:
        parts.append(short(config["work"]))
    if "threads" in config:
        parts.append(f"{config['threads']} thread{'s' * (config['threads'] != 1)}")
    return ", ".join(parts)


def _work(lines: list[dict[str, Any]], width: int) -> list[RenderableType]:
    """One work: its spec as heading, measured backends as a table, failures as sentences."""
    timed = sorted((x for x in lines if x["time_s"] is not None), key=lambda x: float(x["ratio_to_fastest"]))
    failed = [x for x in lines if x["time_s"] is None and x["status"] not in ABSENT]
    if not timed and not failed:
        return []
    spec, size = lines[0]["work"], work_size(lines[0])
    heading = [Text(spec, style="bold")] + ([Text(size, style="dim")] if size else [])
    if len(spec) + 2 + len(size) <= NARROW:
        heading = [Text("  ").join(heading)]
    parts: list[RenderableType] = [*heading]
    if timed:
        parts.append(Timed(timed, width))
    parts += [Text(f"{x['backend']} {failure(x)}", style="red") for x in failed]
    return [*parts, Text()]


def work_size(line: dict[str, Any]) -> str:
    """What a work moves and does; empty for a benchmark that says neither."""
    if not (line["bytes"] or line["flops"]):
        return ""
    return f"{amount(line['bytes'], 'B')}, {amount(line['flops'], 'FLOP')}"


def failure(line: dict[str, Any]) -> str:
    """Why a case has no time."""
    if line["status"] == "wrong":
        return f"wrong, so no time is given: {line['reason']}"
    return f"{line['status']}: {line['reason']}" if line["reason"] else str(line["status"])


def _absent(lines: list[dict[str, Any]]) -> Iterator[RenderableType]:
    """Unsupported and unavailable cases, a line for each backend and reason."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for x in lines:
        if x["status"] in ABSENT:
            groups.setdefault((x["backend"], x["status"], x["reason"]), []).append(short(x["work"]))
    for (backend, status, reason), works in groups.items():
        which = works[0] if len(works) == 1 else f"{len(works)} works, {works[0]} …"
        yield Text.assemble((f"{backend} {status}", "yellow"), f": {reason} ({which})")
    if groups:
        yield Text()


def _doubts(lines: list[dict[str, Any]]) -> Iterator[RenderableType]:
    """How many cases were disturbed and by what; why verdicts are inconclusive."""
    timed = [x for x in lines if x["time_s"] is not None]
    disturbed = [x for x in timed if x["validity"] in ("contended", "invalid")]
    if disturbed:
        by = disturbed_by(disturbed)
        yield Text(f"disturbed: {len(disturbed)} of {len(timed)} cases, by {by}", style="yellow")
    open_ = doubtful_verdicts(timed)
    if open_:
        yield Text(f"inconclusive: {open_}", style="yellow")
    if disturbed or open_:
        yield Text()


def disturbed_by(disturbed: Sequence[dict[str, Any]]) -> str:
    """What disturbed these cases, without figures."""
    reasons = (
        re.split(r":? \d", reason)[0] for x in disturbed for reason in x["validity_reasons"].split("; ")
    )
    return ", ".join(dict.fromkeys(filter(None, reasons))) or "unknown causes"


def doubtful_verdicts(timed: Sequence[dict[str, Any]]) -> str:
    """Why verdicts are inconclusive, and how often; '' if none is."""
    reasons = Counter(_same(x["verdict_reason"]) for x in timed if x["verdict"] == "inconclusive")
    return "; ".join(f"{why} ({n})" for why, n in reasons.items())


def _same(reason: str) -> str:
    """A verdict's reason without the figures of one case."""
    if reason.startswith("between "):
        return "the interval of the share reaches over a threshold"
    return reason.partition(": ")[0] if "ceiling moved" in reason else reason


def benchmarks_view(rows: Sequence[Row]) -> Group:
    """Benchmarks of a pytest session, a line each, with the ceiling that is nearer: what `run_view` has a table for."""
    lines = records(summarize(rows))
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("benchmark", overflow="fold", min_width=12)
    for name in ("time", "GB/s", "MBU", "MFU", "ceiling"):
        number_column(table, name)
    table.add_column("verdict", overflow="fold")
    table.add_column("notes", overflow="fold")
    for work in dict.fromkeys(line["work"] for line in lines):
        for x in (line for line in lines if line["work"] == work):
            table.add_row(
                x["backend"] if work.startswith("custom:") else f"{x['backend']} {short(work)}",
                duration(x["time_s"]),
                gigabytes_per_s(x["achieved_bytes_per_s"]),
                percent(x["mbu"]),
                percent(x["mfu"]),
                _nearer_ceiling(x),
                x["verdict"],
                ", ".join(notes(x)),
            )
    return Group(table, *_doubts(lines))


def _nearer_ceiling(line: dict[str, Any]) -> str:
    """The ceiling that a case comes closer to."""
    read, compute = line["read_ceiling_bytes_per_s"], line["compute_ceiling_flops_per_s"]
    if compute is not None and (line["mfu"] or 0) > (line["mbu"] or 0):
        return rate(compute, "FLOP/s")
    return "–" if read is None else rate(read, "bytes/s")


def duel_view(lines: Sequence[dict[str, Any]]) -> Group:
    """A duel (records of a run of one work): ratios to the fastest by rounds. Failures are sentences, without numbers."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("backend", overflow="fold")
    for name in ("time", "×fastest", "interval", "of bound", "clean"):
        number_column(table, name)
    timed = sorted(
        (x for x in lines if x["time_s"] is not None), key=lambda x: float(x["ratio_to_fastest"] or 0.0)
    )
    for x in timed:
        ci = x["ratio_to_fastest_ci"]
        table.add_row(
            Text(x["backend"]),
            duration(x["time_s"]),
            f"{x['ratio_to_fastest']:.3f}",
            "–" if ci is None else f"{ci[0]:.3f}–{ci[1]:.3f}",
            percent(x["of_bound"]),
            f"{x['turns_clean']}/{x['turns']}",
        )
    legend = (
        "×fastest: time over that of the fastest in the same round, median over rounds, then over processes, with its "
        "95 % interval. of bound: what the ceilings of the same moments allow, over the time. clean: undisturbed turns."
    )
    sentences = [Text(f"{x['backend']} {failure(x)}", style="red") for x in lines if x["time_s"] is None]
    heading = Text(str(lines[0]["work"]) if lines else "", style="bold")
    return Group(heading, table, *sentences, Text(legend, style="dim"))
