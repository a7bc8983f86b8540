"""`membound show`: stored runs as a table, JSON or Markdown.

membound show latest --json
membound show published
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from membound.bench.commands.options import (
    Debug,
    Json,
    Markdown,
    Out,
    RunName,
    console,
    one_format,
    print_json,
    print_text,
)
from membound.results.folders import DEFAULT_OUT, PUBLISHED


def show(
    run: RunName = "latest",
    out: Out = DEFAULT_OUT,
    ceilings: Annotated[
        bool, typer.Option("--ceilings", help="All measured ceilings, and how each was reached.")
    ] = False,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="The first tokens that each backend chose, by work.")
    ] = False,
    as_json: Json = False,
    as_markdown: Markdown = False,
    debug: Debug = False,
) -> None:
    """Show stored runs: each work with its backends, fastest first, each point of load, and what it came to."""
    from membound.results.serving.engine_step import with_stored_steps
    from membound.results.stored_runs import rows_of

    one_format(as_json, as_markdown)
    if tokens and (as_json or as_markdown or ceilings):
        raise typer.BadParameter("--tokens is a table of its own: give no other option of what to show")
    if run == PUBLISHED and not (as_json or as_markdown or ceilings or tokens or os.path.exists(run)):
        from membound.results import published_runs
        from membound.results.views.published import published_view

        console().print(published_view(published_runs.index_of(published_runs.folder())))
        return
    rows = rows_of(run, out)
    if tokens:
        from membound.results.views.tokens import tokens_lines

        print_text("\n".join(tokens_lines(rows)) + "\n")
        return
    near = with_stored_steps(rows, out)
    if as_json:
        from membound.results.serving.table import point_records
        from membound.results.stats import plain, records, summarize

        print_json([*records(summarize(rows)), *plain(point_records(near))])
        return
    if as_markdown:
        from membound.results.views.markdown import run_markdown
        from membound.results.views.serving_text import points_markdown

        print_text(run_markdown(rows) + points_markdown(near))
        return
    from membound.results.views.table import run_view

    console().print(run_view(rows, ceilings, near[len(rows) :]))
