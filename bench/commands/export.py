"""`membound export`: a run in the format of another tool.

membound export latest rows.parquet
membound export latest bench.json --format bencher
membound export latest s3://bucket/rows.parquet
"""

from __future__ import annotations

from typing import Annotated

import typer

from membound.bench.commands.options import Debug, Json, Out, RunName, print_json, print_text
from membound.results.folders import DEFAULT_OUT
from membound.results.plain_text import in_one_line


def export(
    run: RunName,
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="The file to write, here or s3://… and the like; its ending is its format."
        ),
    ],
    format_: Annotated[
        str | None,
        typer.Option("--format", metavar="NAME", help="The format, where the ending does not tell it."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    out: Out = DEFAULT_OUT,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Export a run as a table, for CI, or for dashboards.

    Formats: csv, jsonl, parquet, sqlite, markdown, junit, openmetrics, grafana, bencher, github-action-benchmark, llm-d.

    The file is written whole or not at all. docs/exchange.md says what each format holds.
    """
    from membound.results.exchange.exports import export as write
    from membound.results.exchange.exports import format_of
    from membound.results.exchange.remote_file import shown
    from membound.results.stored_runs import rows_of

    format_of(file, format_)
    rows = rows_of(run, out)
    name, said = write(rows, file, format_, replace=force), shown(file)
    if as_json:
        print_json({"file": said, "format": name, "rows": len(rows)})
    else:
        print_text(f"{in_one_line(said)}: {name}, {len(rows)} rows\n")
