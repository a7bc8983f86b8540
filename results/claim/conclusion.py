"""The conclusion of a claim in plain words: one paragraph that a reader can quote without the tables.

>>> print(paragraph(claim, findings, cells))
On Intel(R) Xeon(R) Processor with 2 threads, the verdicts … are: 9 supported, 1 refuted and 3 not decided. …
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from membound.results.claim.file import Claim
from membound.results.claim.finding import BROKEN, INCONCLUSIVE, NOT_RUN, REFUTED, SUPPORTED, Finding
from membound.results.claim.region import RegionCell, counts
from membound.results.wording import duration

DIRECT = (1, 2, 3, 4, 11)
"""Experiments that change bytes or FLOPs and observe the time: the claim itself, not its limits or its instrument."""
FORMATS = ("kv_format", "weight_format")
ELASTICITIES = ((2, "d ln t / d ln bytes"), (3, "d ln t / d ln FLOPs below the knee"))
HOLDS, FAILS, OPEN, VOID = "holds", "fails", "not decided", "void"
WORDS = {
    SUPPORTED: "supported",
    REFUTED: "refuted",
    INCONCLUSIVE: "not decided",
    BROKEN: "void for a broken instrument",
    NOT_RUN: "not run",
}
"""How verdicts are worded when they are counted: ``2 not decided``."""


def standing(findings: Sequence[Finding], backend: str) -> str:
    """Whether the claim holds on a backend, by the direct experiments alone.

    "fails" if one is refuted; "holds" if at least two different ones are supported and none is refuted;
    "void" if the control failed, so that they have no verdicts; else "not decided". Formats do not count, since they
    change the arithmetic too.
    """
    direct = [f for f in findings if f.backend == backend and f.experiment in DIRECT and f.arm not in FORMATS]
    verdicts = [f.verdict for f in direct]
    if BROKEN in verdicts:
        return VOID
    if REFUTED in verdicts:
        return FAILS
    return HOLDS if len({f.experiment for f in direct if f.verdict == SUPPORTED}) >= 2 else OPEN


def standings(findings: Sequence[Finding]) -> dict[str, str]:
    """Whether the claim holds, for each backend on which a direct experiment was run."""
    tested = [f.backend for f in findings if f.experiment in DIRECT and f.backend and f.verdict != NOT_RUN]
    return {backend: standing(findings, backend) for backend in dict.fromkeys(tested)}


def elasticities(findings: Sequence[Finding]) -> dict[str, str]:
    """The headline figures that were measured, by name, such as ``0.98 (0.95 to 1.01) on mine:cpu``."""
    texts = {}
    for number, name in ELASTICITIES:
        found = [
            f"{one.value:.2f} ({_end(one.low)} to {_end(one.high)}) on {f.backend}{', ' + f.arm if number == 3 else ''}"
            for f in findings
            if f.experiment == number and f.arm not in FORMATS
            for one in f.figures
            if one.name == name
        ]
        if found:
            texts[name] = "; ".join(found)
    return texts


def paragraph(claim: Claim, findings: Sequence[Finding], cells: Sequence[RegionCell]) -> str:
    """One paragraph: the number of verdicts, where the claim holds and fails, the elasticities, the map."""
    sentences = [_counted(claim, findings)]
    found = standings(findings)
    for state, words in (
        (HOLDS, "Where it was tested directly, by changing bytes or FLOPs, the claim holds on {}."),
        (FAILS, "As worded, the claim fails on {}."),
        (OPEN, "The claim is not decided on {}."),
        (VOID, "Nothing can be said about {}, because the instrument failed its control there."),
    ):
        named = [backend for backend, stands in found.items() if stands == state]
        if named:
            sentences.append(words.format(", ".join(named)))
    sentences += [f"Refuted: {f.name}{_where(f)}: {f.sentence}" for f in findings if f.verdict == REFUTED]
    sentences += [f"{name} is {text}." for name, text in elasticities(findings).items()]
    sentences += _overheads(findings)
    sentences += _map(cells)
    sentences += _disturbed(claim)
    return " ".join(sentences)


def _counted(claim: Claim, findings: Sequence[Finding]) -> str:
    count = Counter(f.verdict for f in findings)
    shown = [f"{count[verdict]} {text}" for verdict, text in WORDS.items() if count[verdict]]
    threads = claim.meta.threads
    return (
        f"On {claim.meta.machine.get('cpu', 'an unnamed processor')} with {threads} thread{'s' * (threads != 1)}, "
        f"the verdicts over all experiments, backends and operations are: {listed(shown)}."
    )


def listed(parts: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))


def _where(finding: Finding) -> str:
    place = ", ".join(filter(None, (finding.backend, finding.arm)))
    return f" ({place})" if place else ""


def _overheads(findings: Sequence[Finding]) -> list[str]:
    """t0 of each backend and variant, which shows how much captured graphs or a compiled step save."""
    found = [
        f"{duration(figure.value)} on {f.backend}{f' ({f.arm})' if f.arm != 'plain' else ''}"
        for f in findings
        for figure in f.figures
        if figure.name == "t0" and figure.value > 0
    ]
    return [f"Overhead per operation is {'; '.join(found)}."] if found else []


def _end(value: float | None) -> str:
    return "?" if value is None else f"{value:.2f}"


def _map(cells: Sequence[RegionCell]) -> list[str]:
    if not cells:
        return []
    counted = counts(cells)
    texts = []
    for how in ("measured", "predicted"):
        of = {bound: n for (bound, way), n in counted.items() if way == how}
        if of:
            shown = ", ".join(f"{n} {bound}" for bound, n in sorted(of.items(), key=lambda item: -item[1]))
            texts.append(f"{shown} of {sum(of.values())} {how}")
    return [f"Decode steps on the map, by what bounds them: {'; '.join(texts)}."]


def _disturbed(claim: Claim) -> list[str]:
    timed = [one for one in claim.observations if one.status == "ok"]
    disturbed = sum(one.validity in ("contended", "invalid") for one in timed)
    if not disturbed:
        return []
    return [f"Others used the machine during {disturbed} of {len(timed)} observations."]
