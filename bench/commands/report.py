"""`membound report`: runs, claims, points of load and other tools' files as one page that decides something.

membound report latest --html report.html
membound report results/runs published claim-2026 bench.json --html report.html --png charts --markdown report.md
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from membound.bench.commands.options import Debug, Json, Out, console, print_json, print_paths, print_text
from membound.results.folders import DEFAULT_OUT

if TYPE_CHECKING:
    from membound.results.report.whole import Report


def report(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN]...",
            help="Files (also of other tools, and claims), folders, `published`, or starts of names; default: latest.",
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write one page that loads nothing from outside."),
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option("--png", metavar="DIR", help="Write every chart as a PNG file; the folder is made."),
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option("--markdown", metavar="FILE", help="Write Markdown, with charts in a folder beside it."),
    ] = None,
    out: Out = DEFAULT_OUT,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Report what runs come to: which backend is fastest, how near the limit, what bounds it, what to doubt.

    Without --html, --png, --markdown or --json the Markdown goes to standard output, without charts. Charts need the
    extra `report`: without it pages say so, and --png is refused.
    """
    from membound.bench.report.sources import sources
    from membound.bench.report.write import check_places, write_markdown, write_page, write_pngs
    from membound.results.report.whole import whole_report
    from membound.results.report.whole_markdown import report_markdown

    check_places(html, markdown, png)
    rows, claims = sources(runs or ["latest"], out)
    found = whole_report(rows, claims)
    if html or png or markdown:
        found = _drawn(found, needed=png is not None)
    written: list[Path] = []
    if html is not None:
        write_page(found, html)
        written.append(html)
    written += write_pngs(found, png) if png is not None else []
    written += write_markdown(found, rows, markdown)[:1] if markdown is not None else []
    for file in written:
        print_paths(console(stderr=True), "written", file)
    if as_json:
        print_json(_record(found))
    elif not written:
        print_text(report_markdown(found, rows, {}))


def _drawn(found: Report, needed: bool) -> Report:
    """The report with its charts, or, unless they are `needed`, with the reason why there are none."""
    from dataclasses import replace

    from membound.results.report.drawing import ReportUnavailable
    from membound.results.report.whole import with_charts

    try:
        return with_charts(found)
    except ReportUnavailable as error:
        if needed:
            raise
        console(stderr=True).print(f"membound: {error}; the report has no charts", soft_wrap=True)
        return replace(found, without_charts=str(error))


def _record(found: Report) -> dict[str, Any]:
    """The answers as values for JSON."""
    from membound.results.fleet.record import fleet_record
    from membound.results.report.text import record

    return {
        **({"fleet": fleet_record(found.fleet.comparison)} if found.fleet else {}),
        "answers": [
            {
                "machine": one.place.label,
                "fastest": one.fastest,
                "near": one.near,
                "bound": one.bound,
                "doubts": list(one.doubts),
                "works": [
                    {"work": won.work, "backend": won.backend, "run_id": won.line["run_id"]}
                    | _figures(won.line)
                    for won in one.winners
                ],
            }
            for one in found.answers
        ],
        "claims": [record(one) for one in found.claims],
    }


def _figures(line: dict[str, Any]) -> dict[str, Any]:
    return {name: line[name] for name in ("time_s", "of_bound", "of_bound_ci", "verdict", "validity")}
