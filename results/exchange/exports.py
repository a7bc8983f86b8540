"""Every format that rows can be written in, and writing one: whole or not at all.

>>> export(rows, Path("rows.parquet"))
>>> export(rows, Path("bench.json"), "bencher")
>>> export(rows, "s3://bucket/rows.parquet")

`jsonl`, `parquet` and `sqlite` hold the rows, which `membound.load` reads again; the others hold what is derived from them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from membound.errors import MemboundError
from membound.results.checksum import sealed
from membound.results.exchange import (
    csv_file,
    dashboards,
    grafana,
    junit,
    llm_d_report,
    openmetrics,
    parquet,
    sqlite,
)
from membound.results.exchange.remote_file import is_remote, remote_file, shown
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
    "grafana": Exporter((), _text(grafana.grafana_text), "a dashboard of those gauges, to import"),
    "llm-d": Exporter(
        (), _text(llm_d_report.report_text), "Benchmark Report 0.2 of llm-d-benchmark, of one load"
    ),
    "github-action-benchmark": Exporter(
        (), _text(dashboards.action_text), "for its tool customSmallerIsBetter"
    ),
    "bencher": Exporter((), _text(dashboards.bencher_text), "Bencher Metric Format"),
}
"""By the name that `--format` takes."""


def format_of(file: Path | str, name: str | None = None) -> str:
    """The format that is asked for, or that the name of the file means. Raises ExportFormatError."""
    if name is None:
        found = [key for key, one in EXPORTERS.items() if PurePosixPath(file).suffix in one.suffixes]
        if found:
            return found[0]
        raise ExportFormatError(
            f"{PurePosixPath(shown(str(file))).name} does not tell its format; give --format: {', '.join(EXPORTERS)}"
        )
    if name not in EXPORTERS:
        raise ExportFormatError(f"no format {name!r}; there are {', '.join(EXPORTERS)}")
    return name


def export(rows: Sequence[Row], file: Path | str, name: str | None = None, replace: bool = False) -> str:
    """Write the rows to a file, here or on a file system that fsspec knows, and return the name of its format.

    Raises ExportFormatError, StoreError (the file is there and `replace` is not given, or cannot be written),
    RemoteUnavailable, and what the format raises: ParquetUnavailable, NoReport, NameTwice.
    """
    chosen = format_of(file, name)
    remote = isinstance(file, str) and is_remote(file)
    with remote_file(str(file), replace) if remote else whole_file(Path(file), replace) as scratch:
        EXPORTERS[chosen].write(scratch, rows)
    return chosen
