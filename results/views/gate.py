"""A gate's verdict, and what noise allows, for people and programs: a table, Markdown for a pull request, JSON.

>>> from rich.console import Console
>>> Console().print(gate_view(verdict))
>>> path.write_text(gate_markdown(verdict))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from membound.results.gate import Judged, Measured, Verdict
from membound.results.noise import Noise
from membound.results.pairs import BASE, HEAD, Case
from membound.results.plain_text import as_markdown
from membound.results.stats import plain
from membound.results.views.markdown import LEFT, RIGHT, table_lines
from membound.results.wording import duration, short

VERDICTS = {0: "fine", 1: "regressed", 2: "cannot tell"}
HEADS = ("case", "base", "head", "head/base", "finds", "")
LEGEND = (
    "head/base: time of the head over that of the base, each pair two fresh processes that took turns; in brackets its "
    "95 % interval. finds: the smallest slowdown that this gate finds 19 times of 20 (~: by these pairs alone, since "
    "`membound noise` has not been run here)."
)
NOISE_HEADS = ("case", "pairs", "mean", "spread", "finds")
NOISE_LEGEND = (
    "pairs: of fresh processes of one and the same. mean, spread: of head/base, which is 1 here but for noise. finds: the "
    "smallest slowdown of this case alone that a gate of as many pairs as asked for finds 19 times of 20."
)


def gate_view(verdict: Verdict) -> Group:
    """The answer, a line for each case, what needs words, the legend."""
    table = _table(HEADS, right=4)
    for one in verdict.judged:
        table.add_row(*map(Text, _cells(one)))
    words = [Text(f"{_called(one.case)}: {line}") for one in verdict.judged for line in _words(one)]
    parts: list[RenderableType] = [Text(answer(verdict), style="bold"), Text(), table, Text(), *words]
    return Group(*parts, *(Text(note) for note in verdict.notes), Text(LEGEND, style="dim"))


def gate_markdown(verdict: Verdict) -> str:
    """The same for a pull request."""
    mark = {0: "✅", 1: "❌", 2: "⚠️"}[verdict.exit_status]
    lines = [f"### {mark} {as_markdown(answer(verdict))}", ""]
    lines += [f"head: {as_markdown(verdict.head)} · base: {as_markdown(verdict.base)}", ""]
    rows = [[as_markdown(cell) for cell in _cells(one)] for one in verdict.judged]
    lines += table_lines(HEADS, (LEFT, *(RIGHT,) * 4, LEFT), rows)
    words = [(one, line) for one in verdict.judged for line in _words(one)]
    lines += [f"- **{as_markdown(_called(one.case))}**: {as_markdown(line)}" for one, line in words]
    lines += [f"- {as_markdown(note)}" for note in verdict.notes]
    return "\n".join([*lines, *([""] if words or verdict.notes else []), LEGEND, ""])


def answer(verdict: Verdict) -> str:
    """The verdict in a line: what came out, of how many cases, and what could have been found at all."""
    count = {
        status: sum(one.status == status for one in verdict.judged) for status in ("regressed", "cannot tell")
    }
    judged = [one for one in verdict.judged if one.status != "left out"]
    of = f"of {len(judged)} case{'s' * (len(judged) != 1)}"
    if count["regressed"]:
        also = f"; of {count['cannot tell']} it cannot be told" if count["cannot tell"] else ""
        return f"regressed: {count['regressed']} {of}{also}"
    if count["cannot tell"]:
        return f"cannot tell: {count['cannot tell']} {of}"
    if not judged:
        return "cannot tell: nothing could be measured on both sides"
    worst = max((one.detectable for one in judged if one.detectable is not None), default=None)
    finds = "" if worst is None else f"; a slowdown of {_effect(worst)} would have been found in each"
    return f"fine: none {of} is slower{finds}"


def noise_view(noise: Mapping[Case, Noise], pairs: int, effect: float) -> Group:
    """What noise alone does, and which slowdown can be found in it."""
    table = _table(NOISE_HEADS, right=4)
    for case, one in noise.items():
        finds = _effect(one.detectable(pairs, 1, effect))
        table.add_row(
            *map(Text, (_called(case), str(one.pairs), f"{one.mean:+.2%}", f"{one.spread:.2%}", finds))
        )
    return Group(table, Text(), Text(NOISE_LEGEND, style="dim"))


def noise_records(noise: Mapping[Case, Noise], pairs: int, effect: float) -> list[dict[str, Any]]:
    """The same for programs; shares as fractions."""
    return [
        {
            **_named(case),
            "pairs": one.pairs,
            "runs": one.runs,
            "mean": one.mean,
            "spread": one.spread,
            "effect": one.effect(effect),
            "detectable": plain(one.detectable(pairs, 1, effect)),
        }
        for case, one in noise.items()
    ]


def gate_record(verdict: Verdict) -> dict[str, Any]:
    """The verdict for programs; times in seconds, effects as fractions."""
    return {
        "verdict": VERDICTS[verdict.exit_status],
        BASE: verdict.base,
        HEAD: verdict.head,
        "rule": {"effect": verdict.rule.effect, "unseen": verdict.rule.unseen, "pairs": verdict.rule.pairs},
        "cases": [_record(one) for one in verdict.judged],
        "rows": [str(path) for path in verdict.rows],
        "notes": list(verdict.notes),
    }


def _record(one: Judged) -> dict[str, Any]:
    return {
        **_named(one.case),
        "status": one.status,
        "reason": one.reason,
        "time_s": {BASE: one.base_s, HEAD: one.head_s},
        "first": _stage(one.first),
        "confirmation": _stage(one.confirmation),
        "pairs_aside": one.aside,
        "effect": one.effect,
        "detectable": plain(one.detectable),
        "noise_learnt": one.learnt,
        "counts": [{"name": change.name, BASE: change.base, HEAD: change.head} for change in one.changes],
    }


def _stage(found: Measured | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {"pairs": found.pairs, "ratio": found.ratio, "ratio_ci": list(found.ci), "p": found.p}


def _named(case: Case) -> dict[str, Any]:
    return {"backend": case.backend, "work": case.work, "threads": case.threads}


def _cells(one: Judged) -> list[str]:
    found = one.first
    ratio = "–" if found is None else f"{found.ratio:.3f} [{found.ci[0]:.3f}, {found.ci[1]:.3f}]"
    finds = "–" if one.detectable is None else f"{_effect(one.detectable)}{'' if one.learnt else '~'}"
    return [_called(one.case), duration(one.base_s, 3), duration(one.head_s, 3), ratio, finds, one.status]


def _words(one: Judged) -> Iterator[str]:
    """What a line of the table cannot say."""
    if one.reason:
        yield one.reason
    if one.confirmation is not None and one.first is not None:
        again = one.confirmation
        yield (
            f"first {one.first.ratio - 1:+.1%}, then {again.ratio - 1:+.1%} "
            f"[{again.ci[0] - 1:+.1%}, {again.ci[1] - 1:+.1%}] in {again.pairs} fresh pairs"
        )
    for change in one.changes:
        if not change.worse:
            yield f"{change.name}: {change.base:,} at the base, {change.head:,} at the head"


def _called(case: Case) -> str:
    return f"{case.backend} {short(case.work)}"


def _effect(share: float) -> str:
    return f"{share:.1%}" if isfinite(share) else "nothing"


def _table(names: Sequence[str], right: int) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for index, name in enumerate(names):
        is_figure = 0 < index <= right
        table.add_column(name, justify="right" if is_figure else "left", overflow="fold", no_wrap=is_figure)
    return table
