"""The texts of a report's sections, before they are Markdown or HTML: a claim with its findings, map and paragraph.

>>> from membound.results.claim.experiments import load_experiments
>>> report = report_of(claim, load_experiments(), findings, cells)
>>> heading(report)
'Test CPU, 2 threads'
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from membound.results.claim.conclusion import paragraph
from membound.results.claim.experiments import Register
from membound.results.claim.file import Claim
from membound.results.claim.finding import Finding
from membound.results.claim.region import RegionCell, counts
from membound.results.roofline import best_ceilings
from membound.results.stats import plain
from membound.results.views.claim import figure_text
from membound.results.wording import rate, short

Lines = list[tuple[str, ...]]
VERDICT_HEAD = ("experiment", "backend", "operation", "verdict", "what was found", "processes", "disturbed")
FIGURE_HEAD = ("experiment", "backend", "operation", "figure", "value [95 % interval]")
CEILING_HEAD = ("ceiling", "through", "threads", "value")
MAP_HEAD = ("backend", "model", "weights, cache, arithmetic", "cells by what bounds them")
LEGEND = (
    "Intervals come from resampling worker processes. A verdict follows from a rule that was written down and printed "
    "before anything was measured (docs/claim.md)."
)


@dataclass(frozen=True, slots=True)
class ClaimReport:
    """One claim file, judged."""

    claim: Claim
    register: Register
    """The experiments by which it was judged."""
    findings: Sequence[Finding]
    cells: Sequence[RegionCell]
    paragraph: str
    place: str = ""
    """The name of the folder of its file. The claims of one machine are in one folder."""


def report_of(
    claim: Claim, register: Register, findings: Sequence[Finding], cells: Sequence[RegionCell]
) -> ClaimReport:
    """A claim with its findings, its map and its paragraph."""
    return ClaimReport(claim, register, findings, cells, paragraph(claim, findings, cells))


def record(report: ClaimReport) -> dict[str, Any]:
    """The whole report as values for JSON."""
    meta = report.claim.meta
    whole: dict[str, Any] = plain(
        {
            "claim_id": meta.claim_id,
            "started_at": meta.started_at,
            "experiments_version": meta.experiments_version,
            "experiments_sha256": meta.experiments_sha256,
            "judged_by_sha256": report.register.sha256,
            "machine": meta.machine,
            "threads": meta.threads,
            "paragraph": report.paragraph,
            "findings": [finding.to_dict() for finding in report.findings],
            "region": [asdict(cell) for cell in report.cells],
        }
    )
    return whole


def heading(report: ClaimReport) -> str:
    """The machine, the last of its instruction sets (a guest's name may be no more than the maker's) and the threads."""
    meta = report.claim.meta
    cpu = meta.machine.get("cpu", "unnamed processor")
    sets = meta.machine.get("isa") or [""]
    return f"{cpu}{f' ({sets[-1]})' if sets[-1] else ''}, {meta.threads} thread{'s' * (meta.threads != 1)}"


def provenance(report: ClaimReport) -> str:
    """When the claim was measured, by which rules it was judged, and whether these were the rules at the time."""
    meta = report.claim.meta
    judged = "by which it is judged here too"
    if meta.experiments_sha256 != report.register.sha256:
        judged = f"but it is judged here by version {report.register.version} ({report.register.sha256[:12]})"
    return (
        f"{meta.claim_id}, measured {meta.started_at}, {len(report.claim.observations)} observations. The experiments "
        f"that were printed beforehand are version {meta.experiments_version} (sha256 {meta.experiments_sha256[:12]}), "
        f"{judged}."
    )


def verdict_lines(report: ClaimReport) -> Lines:
    """Lines under VERDICT_HEAD."""
    return [
        (
            f"{f.experiment} {f.name}",
            f.backend,
            _operation(f),
            f.verdict,
            f.sentence,
            str(f.processes),
            f"{f.disturbed} of {f.observations}",
        )
        for f in report.findings
    ]


def figure_lines(report: ClaimReport) -> Lines:
    """Lines under FIGURE_HEAD."""
    return [
        (f"{f.experiment} {f.name}", f.backend, _operation(f), figure.name, figure_text(figure))
        for f in report.findings
        for figure in f.figures
    ]


def ceiling_lines(report: ClaimReport) -> Lines:
    """Lines under CEILING_HEAD, the best for each count of threads."""
    lines: Lines = []
    for threads in sorted({row.threads for row in report.claim.ceilings}):
        same = [row for row in report.claim.ceilings if row.threads == threads]
        lines += [
            (row.work, row.backend, str(threads), rate(value, row.unit)) for value, row in best_ceilings(same)
        ]
    return lines


def map_lines(report: ClaimReport) -> Lines:
    """Lines under MAP_HEAD, measured and predicted cells separately."""
    lines: Lines = []
    for place in dict.fromkeys((c.backend, c.point.model, c.point.format) for c in report.cells):
        of = [c for c in report.cells if (c.backend, c.point.model, c.point.format) == place]
        shown = [f"{n} {bound} ({how})" for (bound, how), n in sorted(counts(of).items())]
        lines.append((*place, ", ".join(shown)))
    return lines


def _operation(finding: Finding) -> str:
    """The arm, shortened if it is the spec of a work."""
    return short(finding.arm) if ":" in finding.arm else finding.arm
