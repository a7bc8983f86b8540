"""What a run came to, in a few plain sentences: who is fastest, how near the limit, what bounds it, what to do next.

>>> from membound.results.stats import records, summarize
>>> for sentence in sentences(records(summarize(rows))):
...     print(sentence)
numba:cpu is fastest in 8 of 9 works, by 1.1 to 3.3 times over the next; torch:cpu in 1 (prefill tokens=128).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from membound.results.intervals import FEWEST
from membound.results.wording import percent, rate, short

MOVED = 0.1
"""Measurements of a ceiling that differ by more than this are worth a word."""
LEVEL = 1.005
"""A lead below this is none."""
FEW = 3
"""This many works are named, more are counted."""
FOREIGN = ("custom", "request", "llama", "ggml", "model")
"""Kinds of works that other tools ran (results/exchange)."""
WHAT_BOUNDS = {
    "memory": "memory bandwidth",
    "compute": "arithmetic",
    "overhead": "neither bandwidth nor arithmetic (launching, dequantisation or a weak kernel)",
    "cache": "the cache, which holds them",
}

Line = dict[str, Any]


def sentences(lines: Sequence[Line]) -> Iterator[str]:
    """Up to five sentences on the cases of one run (records of `summarize`); none if nothing was measured."""
    timed = [line for line in lines if line["time_s"] is not None]
    works = list(dict.fromkeys(line["work"] for line in timed))
    if not works:
        return
    fastest = [_fastest([line for line in timed if line["work"] == work]) for work in works]
    if len(timed) > len(works) or not all(map(_is_foreign, works)):
        yield who_is_fastest(fastest, timed)
    if any(line["of_bound"] is not None for line in fastest):
        near, bounds = how_near(fastest)
        yield " ".join(filter(None, (near, bounds)))
    yield from filter(None, (moved_bandwidth(timed), left_running(timed)))
    yield _next(timed)


def _is_foreign(work: str) -> bool:
    """Whether it is a benchmark of somebody else's, which membound measures nothing of."""
    return work.partition(":")[0] in FOREIGN


def _fastest(lines: Sequence[Line]) -> Line:
    return min(lines, key=lambda line: (float(line["ratio_to_fastest"] or 1.0), float(line["time_s"])))


def who_is_fastest(fastest: Sequence[Line], timed: Sequence[Line]) -> str:
    """Which backend is fastest where, and by how much over the next one."""
    backends = list(dict.fromkeys(line["backend"] for line in timed))
    if len(backends) == 1:
        foreign = all(_is_foreign(line["work"]) for line in timed)
        more = ", so there is nothing to compare" if foreign else ": name more with --backends to compare"
        return f"Only {backends[0]} was measured{more}."
    if len(timed) == len(fastest):
        return "No work was measured on two backends, so there is nothing to compare."
    wins: dict[str, list[Line]] = {}
    for line in fastest:
        wins.setdefault(line["backend"], []).append(line)
    parts: list[str] = []
    for backend, won in sorted(wins.items(), key=lambda pair: -len(pair[1])):
        leads = [lead for line in won if (lead := _lead(line, timed)) is not None]
        by = ""
        if leads:
            low, high = min(leads), max(leads)
            span = f"{low:.2f}" + (f" to {high:.2f}" if high - low >= 0.01 else "")
            by = f", {span} times as fast as the next" if high >= LEVEL else ", level with the next"
        where = f"in {len(won)} of {len(fastest)} works" if not parts else f"in {len(won)}"
        names = f" ({_named(won)})" if len(won) <= FEW and len(fastest) > 1 else ""
        parts.append(f"{backend} {where}{names}{by}")
    return f"Fastest: {'; '.join(parts)}."


def _lead(line: Line, timed: Sequence[Line]) -> float | None:
    others = [
        float(other["ratio_to_fastest"])
        for other in timed
        if other["work"] == line["work"] and other is not line and other["ratio_to_fastest"] is not None
    ]
    return min(others, default=None)


def how_near(fastest: Sequence[Line]) -> tuple[str, str]:
    """How much of the machine's limit the fastest reach, and what bounds them; '' where nothing tells."""
    shares = sorted(float(line["of_bound"]) for line in fastest if line["of_bound"] is not None)
    span = percent(shares[0]) + (
        f" to {percent(shares[-1])}" if percent(shares[0]) != percent(shares[-1]) else ""
    )
    bound: dict[str, list[Line]] = {}
    for line in fastest:
        if line["verdict"] in WHAT_BOUNDS:
            bound.setdefault(line["verdict"], []).append(line)
    parts = []
    for verdict, group in sorted(bound.items(), key=lambda pair: -len(pair[1])):
        names = f" ({_named(group)})" if len(group) <= FEW and len(fastest) > 1 else ""
        parts.append(f"{WHAT_BOUNDS[verdict]} bounds {len(group)}{names}")
    told = f"{'; '.join(parts)}." if parts else ""
    return f"The fastest reach {span} of what this machine allows.", f"{told[:1].upper()}{told[1:]}"


def _named(lines: Sequence[Line]) -> str:
    return ", ".join(short(line["work"]) for line in lines)


def moved_bandwidth(timed: Sequence[Line]) -> str:
    """How far a bandwidth moved while the run went on; '' if hardly, or if nothing tells."""
    for name in dict.fromkeys(line["memory_ceiling"] for line in timed):
        lows, highs = (
            [line[f"read_ceiling_{end}_bytes_per_s"] for line in timed if line["memory_ceiling"] == name]
            for end in ("lowest", "highest")
        )
        known = [value for value in (*lows, *highs) if value]
        if not known:
            continue
        low, high = min(known), max(known)
        if low < (1 - MOVED) * high:
            what = "Read bandwidth" if name == "read" else f"The bandwidth {name}"
            span = f"between {rate(low, 'bytes/s')} and {rate(high, 'bytes/s')}"
            in_turn = any(line["turns"] for line in timed)
            rest = (
                "shares and ratios are of the same moments, so they hold; times are of a machine that moves"
                if in_turn
                else f"MBU is of the best, so up to {high / low:.2f} times too low"
            )
            return f"{what} moved {span}: {rest}."
    return ""


def left_running(timed: Sequence[Line]) -> str:
    """Which backends go on with something after their turns, going by the ceilings; '' if none does."""
    falls = {line["backend"]: float(line["ceiling_fall"]) for line in timed if line["ceiling_fall"]}
    if not falls:
        return ""
    by = " and ".join(f"{backend} ({percent(fall)})" for backend, fall in falls.items())
    return (
        f"The ceiling was lower right after turns of {by} than right before them: something went on there, and "
        "shares are too high by about half of that."
    )


def _next(timed: Sequence[Line]) -> str:
    """What to do next, the most needed thing first."""
    if all(line["mbu"] is None for line in timed):
        foreign = all(_is_foreign(line["work"]) for line in timed)
        if foreign and not any(line["bytes"] for line in timed):
            return "The file does not say how many bytes were moved, so there are no shares and no verdicts."
        remedy = "import the file with --ceilings" if foreign else "leave out --no-ceilings"
        return f"Without ceilings there are no shares and no verdicts: {remedy}."
    doubtful = [line for line in timed if line["verdict"] == "inconclusive"]
    if any(line["replicates"] < FEWEST for line in timed):
        return f"Fewer than {FEWEST} processes a case give no interval: --replicates {FEWEST} does."
    if doubtful:
        count = f"{len(doubtful)} case{'s are' if len(doubtful) > 1 else ' is'} inconclusive"
        return f"{count}; --rigor high measures until the interval is within 1 %."
    close = [
        line for line in timed if (ci := line["ratio_to_fastest_ci"]) is not None and ci[0] <= 1 <= ci[1]
    ]
    if close:
        work = close[0]["work"]
        best = _fastest([line for line in timed if line["work"] == work])
        return (
            f"{close[0]['backend']} and {best['backend']} are too close to call on {short(work)}: "
            f"membound duel {work} -b {best['backend']},{close[0]['backend']}"
        )
    return "membound claim tests by experiment whether bandwidth is what limits these times."
