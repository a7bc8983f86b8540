"""Writing reports: one page, PNG files, or Markdown with SVG files beside it, each file whole or not at all.

>>> write_page(report, Path("report.html"))
>>> write_markdown(report, rows, Path("report.md"))
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from membound.errors import MemboundError
from membound.results.exchange.whole_file import check_place, whole_file
from membound.results.report.claim_charts import definitions_of
from membound.results.report.drawing import png_of, styled
from membound.results.report.page import page_html
from membound.results.report.pictures import file_svg
from membound.results.report.whole import Report
from membound.results.report.whole_markdown import report_markdown
from membound.results.row import Row


class ReportError(MemboundError):
    """A report cannot be made or written; the message names the file and what to do."""


def check_places(html: Path | None, markdown: Path | None, png: Path | None = None) -> None:
    """Raises StoreError or ReportError where something could not be written, before minutes are spent and anything is.

    `png` and the folder of Markdown's charts may be one, two files may not.
    """
    files = [path for path in (html, markdown) if path is not None]
    folders = [folder for folder in (png, plots_of(markdown) if markdown else None) if folder is not None]
    for path in files:
        check_place(path)
    for folder in folders:
        _check_folder(folder)
    real = [os.path.realpath(path) for path in files]
    if len(set(real)) < len(real):
        raise ReportError(f"{markdown} is named for both the page and the Markdown; name two files")
    for folder in folders:
        if os.path.realpath(folder) in real:
            raise ReportError(f"{folder} cannot be a file and the folder of the charts; name another one")


def plots_of(markdown: Path) -> Path:
    """The folder of the charts that a Markdown file shows."""
    return markdown.with_name(f"{markdown.stem}-plots")


def _check_folder(folder: Path) -> None:
    if os.path.lexists(folder) and not folder.is_dir():
        raise ReportError(f"{folder} is no folder; name one")
    if not folder.is_dir() and not folder.parent.is_dir():
        raise ReportError(f"{folder} cannot be made: there is no folder {folder.parent}")


def write_page(report: Report, path: Path) -> None:
    """Write the page. Raises StoreError."""
    write_file(path, page_html(report))


def write_pngs(report: Report, folder: Path) -> list[Path]:
    """Write every chart; all are drawn before the first is written. Returns the paths. Raises StoreError."""
    drawn = {folder / f"{name}.png": png_of(styled(chart)) for name, chart in definitions(report)}
    for path, content in drawn.items():
        write_file(path, content)
    return list(drawn)


def write_markdown(report: Report, rows: Sequence[Row], path: Path) -> list[Path]:
    """Write Markdown, and its charts in a folder beside it. Returns the paths, Markdown first. Raises StoreError."""
    folder = plots_of(path)
    drawn = {name: file_svg(chart) for name, chart in definitions(report)}
    links = {name: f"{folder.name}/{name}.svg" for name in drawn}
    text = report_markdown(report, rows, links)
    for name, svg in drawn.items():
        write_file(folder / f"{name}.svg", svg)
    write_file(path, text)
    return [path, *(folder / f"{name}.svg" for name in drawn)]


def definitions(report: Report) -> Iterator[tuple[str, object]]:
    """Names of files, and what they are drawn from; nothing where the libraries are missing."""
    yield from ((one.name, one.chart) for one in report.figures if one.chart is not None)
    if report.without_charts:
        return
    for number, one in enumerate(report.claims, 1):
        for name, chart in definitions_of(one.claim.observations, one.findings, one.cells).items():
            yield f"claim-{number}-{name.replace(' ', '-')}", chart


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all; its folder is made. Raises StoreError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReportError(f"{path} cannot be written: {error.strerror}") from None
    with whole_file(path, replace=True) as scratch:
        scratch.write_bytes(content.encode() if isinstance(content, str) else content)
