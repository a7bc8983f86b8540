"""Reports of stored claims, judged again from their observations: as Markdown, as one HTML page, or within a document.

>>> reports = load_reports([Path("results/published")])
>>> write_html(reports, Path("claim.html"))
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from membound.bench.claim.map_grid import points_for
from membound.bench.report.write import ReportError, check_places, write_file, write_page
from membound.results.claim.experiments import Register, load_experiments
from membound.results.claim.file import Claim, claim_files, load_claims
from membound.results.claim.finding import Finding
from membound.results.claim.judge import judge_claim
from membound.results.claim.region import region_of
from membound.results.report.claim_charts import charts_of
from membound.results.report.markdown import (
    CLAIMS,
    claim_markdown,
    experiments_markdown,
    replaced,
)
from membound.results.report.summary import EXPERIMENTS, by_place, page_of, summary_markdown
from membound.results.report.text import ClaimReport, report_of
from membound.results.report.whole import whole_report, with_charts
from membound.results.store import StoreError

PAGES = "claims"
"""The folder beside a document for the pages that it leads to."""


def load_reports(paths: Iterable[Path]) -> list[ClaimReport]:
    """Every claim in these files and below these folders, judged. Raises ReportError if there is none."""
    named = list(paths)
    # os.path gives False for a name that is too long, where Path's methods raise.
    missing = [path for path in named if not os.path.exists(path)]
    if missing:
        raise StoreError(f"no such claim file or folder: {missing[0]}")
    files = [file for path in named for file in (claim_files(path) if path.is_dir() else [path])]
    if not files:
        raise ReportError(
            f"no claim file in {', '.join(map(str, named))}: `membound claim` makes one (claim-….jsonl)"
        )
    register = load_experiments()
    return [
        replace(judged(claim, register), place=file.resolve().parent.name)
        for file, claim in load_claims(files)
    ]


def judged(claim: Claim, register: Register, findings: Sequence[Finding] | None = None) -> ClaimReport:
    """A claim with its findings (judged here unless given), its map and its paragraph."""
    found = findings
    if found is None:
        found = judge_claim(claim.observations, register, claim.meta.only)
    return report_of(claim, register, found, region_of(claim, found, points_for(claim)))


def check_reports(html: Path | None, markdown: Path | None) -> None:
    """Makes sure, before minutes are spent, that what was asked for can be drawn and has a place.

    Raises ReportUnavailable, StoreError.
    """
    if html is not None or markdown is not None:
        charts_of([], [], [])
    check_places(html, markdown)


def write_reports(claims: Sequence[ClaimReport], html: Path | None, markdown: Path | None) -> list[Path]:
    """Write the reports that were asked for and return their paths. Raises as `write_html`."""
    written = []
    for write, path in ((write_html, html), (write_markdown, markdown)):
        if path is not None:
            write(claims, path)
            written.append(path)
    return written


def write_html(claims: Sequence[ClaimReport], path: Path) -> None:
    """Write one page with everything. Raises ReportUnavailable without the extra, StoreError if it cannot be written."""
    write_page(with_charts(whole_report([], claims)), path)


def write_markdown(claims: Sequence[ClaimReport], path: Path, top: str = "") -> None:
    """Write Markdown, `top` before it, and its charts as SVG files in a folder beside it. Raises as `write_html`."""
    folder = path.with_name(f"{path.stem}-plots")
    links: dict[str, dict[str, str]] = {}
    for report in claims:
        claim_id = report.claim.meta.claim_id
        for name, svg in _charts(report).items():
            file = folder / f"{re.sub(r'[^a-z0-9-]+', '-', claim_id.lower())}-{name.replace(' ', '-')}.svg"
            write_file(file, svg)
            links.setdefault(claim_id, {})[name] = f"{folder.name}/{file.name}"
    write_file(path, top + claim_markdown(claims, links))


def write_into(claims: Sequence[ClaimReport], path: Path) -> list[Path]:
    """Write the summary between the marks of a document and, in the folder `claims` beside it, a page for each machine.

    A machine is a folder of claim files. One more page has the experiments. Returns the paths of the documents written.
    Raises MarksMissing, ReportError, ReportUnavailable.
    """
    charts_of([], [], [])
    try:
        document = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ReportError(f"{path} cannot be read: {error.strerror}") from None
    document = replaced(document, CLAIMS, summary_markdown(claims, PAGES))
    pages = path.with_name(PAGES)
    written = [path, pages / EXPERIMENTS]
    note = f"Made by `membound claim-report --into {path.name}`. What it is about: [{path.name}](../{path.name}).\n\n"
    write_file(written[1], f"# The experiments\n\n{note}{experiments_markdown(load_experiments())}")
    for place, reports in by_place(claims).items():
        page = pages / page_of(place)
        write_markdown(reports, page, f"# {place}\n\n{note}")
        written.append(page)
    write_file(path, document)
    return written


def _charts(report: ClaimReport) -> dict[str, str]:
    return charts_of(report.claim.observations, report.findings, report.cells)
