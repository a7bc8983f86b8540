"""Every format that rows can be written in, and writing one: whole or not at all.

>>> export(rows, Path("rows.parquet"))
>>> export(rows, Path("bench.json"), "bencher")

`jsonl`, `parquet` and `sqlite` hold the rows, which `membound.load` reads again; the others hold what is derived from them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from membound.errors import MemboundError
from membound.results.checksum import sealed
from membound.results.exchange import csv_file, dashboards, junit, llm_d_report, openmetrics, parquet, sqlite
from membound.results.exchange.whole_file import whole_file
from membound.results.row import Row
from membound.results.views.markdown import run_markdown


class ExportFormatError(MemboundError, ValueError):
    """No such format, or none that follows from the name of the file; the message lists them."""


@dataclass(frozen=True, slots=True)
class Exporter:
    """One format: endings of file names that mean it, and how to write it to a path."""

    suffixes: tuple[str, ...]
    write: Callable[[Path, Sequence[Row]], None]
    what: str


def _text(make: Callable[[Sequence[Row]], str]) -> Callable[[Path, Sequence[Row]], None]:
    def write(path: Path, rows: Sequence[Row]) -> None:
        path.write_text(make(rows), encoding="utf-8")

    return write


def _lines(path: Path, rows: Sequence[Row]) -> None:
    with path.open("wb") as file:
        file.writelines(sealed(row.to_json().encode()) + b"\n" for row in rows)


EXPORTERS = {
    "csv": Exporter((".csv",), _text(csv_file.csv_text), "the summary, a line a case"),
    "jsonl": Exporter((".jsonl",), _lines, "the rows, as a run stores them"),
    "parquet": Exporter((".parquet",), parquet.write_rows, "the rows, a column a field (extra `parquet`)"),
    "sqlite": Exporter((".sqlite", ".db"), sqlite.write_rows, "the rows and the summary, as two tables"),
    "markdown": Exporter((".md",), _text(run_markdown), "the tables of `membound show`"),
    "junit": Exporter((".xml",), _text(junit.junit_text), "a test case for each case"),
    "openmetrics": Exporter((".prom", ".om"), _text(openmetrics.openmetrics_text), "gauges for Prometheus"),
    "llm-d": Exporter(
        (), _text(llm_d_report.report_text), "Benchmark Report 0.2 of llm-d-benchmark, of one load"
    ),
    "github-action-benchmark": Exporter(
        (), _text(dashboards.action_text), "for its tool customSmallerIsBetter"
    ),
    "bencher": Exporter((), _text(dashboards.bencher_text), "Bencher Metric Format"),
}
"""By the name that `--format` takes."""


def format_of(path: Path, name: str | None = None) -> str:
    """The format that is asked for, or that the name of the file means. Raises ExportFormatError."""
    if name is None:
        found = [key for key, one in EXPORTERS.items() if path.suffix in one.suffixes]
        if found:
            return found[0]
        raise ExportFormatError(
            f"{path.name} does not tell its format; give --format: {', '.join(EXPORTERS)}"
        )
    if name not in EXPORTERS:
        raise ExportFormatError(f"no format {name!r}; there are {', '.join(EXPORTERS)}")
    return name


def export(rows: Sequence[Row], path: Path, name: str | None = None, replace: bool = False) -> str:
    """Write the rows to a file and return the name of its format.

    Raises ExportFormatError, StoreError (the file is there and `replace` is not given, or cannot be written), and what the
    format raises: ParquetUnavailable, NoReport, NameTwice.
    """
    chosen = format_of(path, name)
    with whole_file(path, replace) as scratch:
        EXPORTERS[chosen].write(scratch, rows)
    return chosen
