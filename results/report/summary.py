"""What was found on all machines, in one table: the elasticities, and how each experiment was decided on each machine.

>>> from membound.results.report.markdown import CLAIMS, replaced
>>> document.write_text(replaced(document.read_text(), CLAIMS, summary_markdown(reports, "claims")))
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from membound.results.claim.conclusion import ELASTICITIES, WORDS, elasticities, standings
from membound.results.claim.experiments import Experiment
from membound.results.claim.finding import NOT_RUN, Finding
from membound.results.report.text import ClaimReport, heading
from membound.results.views.markdown import LEFT, table_lines

EXPERIMENTS = "experiments.md"
"""The page of the experiments, in the folder of the machines' pages."""
SUMMARY_LEGEND = (
    "The claim holds on a backend if at least two of experiments 1 to 4 and 11 are supported there and none is refuted, the formats "
    "of experiment 2 aside. Elasticities are given with 95 % intervals over worker processes. Verdicts are counted over "
    "backends and operations; what was not run is mentioned only if nothing else was run."
)


def by_place(reports: Iterable[ClaimReport]) -> dict[str, list[ClaimReport]]:
    """Reports by the folder of their files; a machine has one folder."""
    found: dict[str, list[ClaimReport]] = {}
    for report in reports:
        found.setdefault(report.place, []).append(report)
    return found


def page_of(place: str) -> str:
    """The file name of a machine's page."""
    return f"{re.sub(r'[^a-z0-9-]+', '-', place.lower())}.md"


def summary_markdown(reports: Sequence[ClaimReport], folder: str) -> str:
    """The table. It links to the pages in `folder`, one for each place and one for the experiments."""
    groups = by_place(reports)
    findings = {place: [f for one in group for f in one.findings] for place, group in groups.items()}
    lines = [
        ("machine", *("; ".join(dict.fromkeys(map(heading, group))) for group in groups.values())),
        ("measured", *(_days(group) for group in groups.values())),
        ("**the claim**", *(_standing(found) for found in findings.values())),
    ]
    for name in (name for _, name in ELASTICITIES):
        figures = [elasticities(found).get(name, "–") for found in findings.values()]
        if set(figures) != {"–"}:
            lines.append((f"**{name}**", *figures))
    for one in reports[0].register if reports else ():
        counts = [_counted(f.verdict for f in found if f.experiment == one.id) for found in findings.values()]
        lines.append((f"[{one.id} {one.name}]({folder}/{EXPERIMENTS}#{_anchor(one)})", *counts))
    head = ["", *(f"[{place}]({folder}/{page_of(place)})" for place in groups)]
    return "\n".join([*table_lines(head, [LEFT] * len(head), lines), SUMMARY_LEGEND, ""])


def _days(reports: Iterable[ClaimReport]) -> str:
    return ", ".join(sorted({one.claim.meta.started_at[:10] for one in reports}))


def _standing(findings: Sequence[Finding]) -> str:
    return (
        "; ".join(f"{state} on {backend}" for backend, state in standings(findings).items()) or "not tested"
    )


def _counted(verdicts: Iterable[str]) -> str:
    """``2 supported, 1 not decided``."""
    count = Counter(verdicts)
    shown = [f"{count[one]} {words}" for one, words in WORDS.items() if count[one] and one != NOT_RUN]
    return ", ".join(shown) or "not run"


def _anchor(experiment: Experiment) -> str:
    """The anchor of an experiment's heading, as GitHub makes it."""
    return f"{experiment.id}-{experiment.name.lower().replace(' ', '-')}"
