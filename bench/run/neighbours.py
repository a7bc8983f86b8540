"""The ceilings that play between the turns of a replicate: through whom, which of them, and their rows at its end.

>>> fastest_limits(run.rows, "cuda:0", ["read"])
('numba:cuda:0', {'read': '16 bytes a thread'})
>>> due_ceilings(row, run.rows)
('read',)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from membound.bench.measure.ceiling_process import Moment
from membound.bench.run.ceiling_rows import turned_rows
from membound.results.roofline import compute_ceilings, device_class, limits_of
from membound.results.row import Row

BINDS = 0.2
"""An arithmetic peak takes turns where FLOPs take at least this share of the time that the bytes do."""


def fastest_limits(
    rows: Iterable[Row], device: str, links: Sequence[str]
) -> tuple[str, dict[str, str]] | None:
    """Through which backend the limits of an accelerator play, and the best variant of each; None without any.

    `links` are the limits that its cases run into. One process holds them all: of the backends that were found to
    have most of them, that which is the fastest at the first.
    """
    best: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row.kind == "ceiling" and row.work in links and row.value and device_class(row.backend) == device:
            of_backend = best.setdefault(row.backend, {})
            known = of_backend.get(row.work)
            if known is None or row.value > (known.value or 0.0):
                of_backend[row.work] = row
    if not best:
        return None

    def rank(backend: str) -> tuple[int, list[float]]:
        found = best[backend]
        return len(found), [found[link].value or 0.0 for link in links if link in found]

    first = max(best, key=rank)
    return first, {link: str(row.config.get("variant", "")) for link, row in best[first].items()}


def due_ceilings(about: Row, rows: Sequence[Row]) -> tuple[str, ...]:
    """The ceilings that take turns with a case: its bandwidth, and peaks of its arithmetic where they can bind."""
    names = (about.memory_ceiling, *compute_ceilings(about.work))
    limits = limits_of(about, rows)
    if limits.read_bytes_per_s is None or limits.compute_flops_per_s is None:
        return names
    bytes_s, flops_s = about.bytes / limits.read_bytes_per_s, about.flops / limits.compute_flops_per_s
    return names if flops_s >= BINDS * bytes_s else names[:1]


def moments_of(rows: Iterable[Row]) -> list[Moment]:
    """What the turns of these cases were compared with, each moment once."""
    found: dict[tuple[tuple[str, float], ...], Moment] = {}
    for row in rows:
        for turn in row.turns:
            for side in (turn.before, turn.after):
                if side:
                    found.setdefault(tuple(sorted(side.items())), Moment(turn.at_s, side))
    return list(found.values())


def unwritten_rows(rows: Sequence[Row], run_id: str, threads: int) -> list[Row]:
    """Rows of ceilings that took turns in a replicate whose process was killed before it wrote them."""
    played: dict[tuple[int, str], list[Row]] = {}
    written = set()
    for row in rows:
        key = (row.replicate, device_class(row.backend))
        if row.kind == "case" and row.turns:
            played.setdefault(key, []).append(row)
        elif row.kind == "ceiling" and "turns" in row.config:
            written.add((*key, row.work))
    found = []
    for (replicate, device), cases in played.items():
        moments = moments_of(cases)
        backend, variants = device, dict[str, str]()
        if device != "cpu":
            names = list(dict.fromkeys(name for moment in moments for name in moment.rates))
            backend, variants = fastest_limits(rows, device, names) or (cases[0].backend, variants)
        of_all = turned_rows(moments, variants, run_id, backend, replicate, threads)
        found += [row for row in of_all if (replicate, device, row.work) not in written]
    return found
