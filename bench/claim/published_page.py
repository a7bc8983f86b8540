"""Renewing the index and the page of the published runs.

>>> renew(Path("results/published"), entries, Path("docs/published.md"))
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from membound.bench.report.write import ReportError
from membound.results.exchange.whole_file import whole_file
from membound.results.published_runs import INDEX, Entry, index_json
from membound.results.report.cases import cases_of
from membound.results.report.markdown import replaced
from membound.results.report.published import published_markdown
from membound.results.report.shares_chart import run_shares
from membound.results.run_files import run_files
from membound.results.store import load_rows

MARKS = "published"
"""The generated part of the page is between ``<!-- published -->`` and ``<!-- /published -->``."""


def renew(place: Path, entries: Sequence[Entry], page: Path) -> list[Path]:
    """Write the index, the page and a chart for each run; return their paths.

    Raises ReportError, MarksMissing, ReportUnavailable, StoreError.
    """
    rows = {path.name.partition(".")[0]: load_rows(path) for path in run_files(place)}
    charts = {run: run_shares(cases_of(some)) for run, some in rows.items()}
    folder = page.with_name(f"{page.stem}-plots")
    links = {run: f"{folder.name}/{run.lower()}.svg" for run in rows}
    try:
        document = page.read_text(encoding="utf-8")
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ReportError(f"{error.filename}: {error.strerror}") from None
    texts = {
        page: replaced(document, MARKS, published_markdown(entries, rows, links)),
        place / INDEX: index_json(entries),
    }
    texts |= {page.with_name(folder.name) / f"{run.lower()}.svg": svg for run, svg in charts.items()}
    for path, text in texts.items():
        with whole_file(path, replace=True) as scratch:
            scratch.write_text(text, encoding="utf-8")
    return list(texts)
