"""A gate from the first pair to its verdict: a first stage, fresh pairs of what it suspects, the rule.

>>> verdict = gated(source, Rule(), known_noise(Path("results/noise")), ("main", "working tree"), print)
>>> verdict.exit_status
0
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from membound.bench.gate.source import Source
from membound.bench.machine.fingerprint import fingerprint
from membound.results.alternated import alternated
from membound.results.gate import FEWEST_PAIRS, Rule, Verdict, judge, suspects
from membound.results.noise import Noise, learnt
from membound.results.pairs import Case, Pairs, both_sides
from membound.results.store import load_rows
from membound.results.wording import short

FIRST, FRESH = 0, 10
"""Numbers of the stages: each draws its order anew."""


def known_noise(folder: Path) -> dict[Case, Noise]:
    """What `membound noise` has stored of this machine. Raises StoreError, RowError where it cannot be read."""
    return learnt(load_rows(folder), fingerprint()) if folder.is_dir() else {}


def gated(
    source: Source,
    rule: Rule,
    noise: Mapping[Case, Noise],
    names: tuple[str, str],
    note: Callable[[str], None],
    notes: Sequence[str] = (),
) -> Verdict:
    """Measure and judge. `names` are those of base and head. Raises MemboundError."""
    paths: list[Path] = []
    first = _measured(source, None, rule, FIRST, paths)
    suspected = suspects(first, noise, rule)
    fresh: dict[Case, Pairs] = {}
    if suspected:
        shown = ", ".join(f"{case.backend} {short(case.work)}" for case in suspected[:3])
        more = f" and {len(suspected) - 3} more" if len(suspected) > 3 else ""
        note(f"suspected: {shown}{more}; fresh processes will say")
        fresh = _measured(source, suspected, rule, FRESH, paths)
    judged = judge(first, fresh, noise, rule)
    return Verdict(*names, rule, tuple(judged), tuple(paths), tuple(notes))


def judged_files(base: str, head: str, rule: Rule, noise: Mapping[Case, Noise]) -> Verdict:
    """Of row files that were made in turn: the later half of the pairs confirms what the earlier half suspects.

    Raises NotPaired, StoreError, RowError.
    """
    rows = alternated(load_rows(base), load_rows(head))
    numbers = sorted({(row.run_id, row.replicate) for row in rows})
    half = max(FEWEST_PAIRS, -(-len(numbers) // 2))
    parts = [
        [row for row in rows if (row.run_id, row.replicate) in set(part)]
        for part in (numbers[:half], numbers[half:])
    ]
    first = both_sides(parts[0])
    fresh = both_sides(parts[1]) if parts[1] else {}
    suspected = set(suspects(first, noise, rule))
    judged = judge(first, {case: pairs for case, pairs in fresh.items() if case in suspected}, noise, rule)
    return Verdict(base, head, rule, tuple(judged), (Path(base), Path(head)))


def _measured(
    source: Source, cases: Sequence[Case] | None, rule: Rule, stage: int, paths: list[Path]
) -> dict[Case, Pairs]:
    """That many pairs of each case; where disturbed processes made some useless, as many again, once."""
    path, rows = source.measure(cases, rule.pairs, stage)
    paths.append(path)
    found = both_sides(rows)
    short_of = [case for case, pairs in found.items() if pairs.aside and len(pairs.log_ratios) < rule.pairs]
    if short_of:
        missing = max(rule.pairs - len(found[case].log_ratios) for case in short_of)
        path, more = source.measure(short_of, missing, stage + 1)
        paths.append(path)
        found = both_sides([*rows, *more])
    return {case: pairs for case, pairs in found.items() if cases is None or case in cases}
