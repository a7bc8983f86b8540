"""`membound claim` tests the claim and judges it; `membound claim-report` judges what is stored."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from membound.bench.commands.options import (
    Backends,
    Debug,
    Json,
    Out,
    Pythons,
    Seed,
    Threads,
    console,
    number_within,
    print_json,
    print_paths,
    print_text,
)
from membound.results.folders import DEFAULT_OUT

Html = Annotated[
    Path | None,
    typer.Option(
        "--html", metavar="FILE", help="Write one page with charts that loads nothing from outside."
    ),
]
MarkdownFile = Annotated[
    Path | None,
    typer.Option("--markdown", metavar="FILE", help="Write Markdown, with charts in a folder beside it."),
]


def claim(
    only: Annotated[
        str | None, typer.Option(metavar="NUMBERS", help="Experiments, as in 1,4; default: all.")
    ] = None,
    backends: Backends = None,
    replicates: Annotated[
        int | None,
        typer.Option(
            parser=number_within(1, 1000),
            metavar="N",
            help="Worker processes of each experiment, 1 to 1000; default: its sample size.",
        ),
    ] = None,
    rigor: Annotated[
        str,
        typer.Option(
            metavar="LEVEL", help="normal: ten minutes at most; high: 10 processes, however long they take."
        ),
    ] = "normal",
    threads: Threads = None,
    seed: Seed = 1,
    pair: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="RUN RUN", help="Stored runs of two machines that differ in memory: experiment 9."
        ),
    ] = None,
    html: Html = None,
    markdown: MarkdownFile = None,
    out: Out = DEFAULT_OUT,
    python: Pythons = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Test the claim that memory bandwidth, not compute, limits decoding, by experiments that could refute it.

    Prints each experiment with the rule that would refute it before anything is measured, and verdicts at the end.
    """
    from membound.bench.claim.plan import parse_only
    from membound.bench.claim.report import check_reports, judged, write_reports
    from membound.bench.claim.session import run_claim
    from membound.bench.machine.secrets import command_line
    from membound.bench.planning.choice import check_threads, parse_pythons, split
    from membound.bench.planning.plan import Options
    from membound.results.claim.experiments import load_experiments
    from membound.results.report.text import record
    from membound.results.views.claim import claim_view

    check_reports(html, markdown)
    options = Options(
        threads=check_threads(threads),
        replicates=replicates or 0,
        rigor=rigor,
        seed=seed,
        pythons=parse_pythons(python or ()),
        out=out,
        command=command_line(["membound", *sys.argv[1:]]),
    )
    talk = console(stderr=as_json)
    asked = [] if only is None else parse_only(only)
    session = run_claim(asked, split(backends or ()), options, pair, talk, console(stderr=True))
    report = judged(session.claim, load_experiments(), session.findings)
    if as_json:
        print_json(record(report) | {"file": str(session.path)})
    else:
        talk.print(claim_view(session.findings))
        for line in ("", report.paragraph, ""):
            talk.print(line)
    print_paths(talk, "observations", session.path)
    for file in write_reports([report], html, markdown):
        print_paths(talk, "written", file)
    raise typer.Exit(session.exit_status)


def claim_report(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH", help="Claim files, or folders with claim files below them."),
    ],
    html: Html = None,
    markdown: MarkdownFile = None,
    into: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Renew the summary in a document (docs/claim.md), and beside it a page for each folder of claims.",
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Judge stored claims again, from their observations, and report them as text, HTML or Markdown.

    Without --html, --markdown, --into or --json the Markdown goes to standard output, without charts.
    """
    from membound.bench.claim.report import check_reports, load_reports, write_into, write_reports
    from membound.results.report.markdown import claim_markdown
    from membound.results.report.text import record

    check_reports(html, markdown)
    claims = load_reports(paths)
    written = write_reports(claims, html, markdown)
    if into is not None:
        written += write_into(claims, into)
    for file in written:
        print_paths(console(stderr=True), "written", file)
    if as_json:
        print_json([record(report) for report in claims])
    elif not any((html, markdown, into)):
        print_text(claim_markdown(claims, {}))
