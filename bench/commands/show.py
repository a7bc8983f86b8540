"""`membound show`: stored runs as a table, JSON or Markdown.

membound show latest --json
"""

from __future__ import annotations

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
)
from membound.results.runs import DEFAULT_OUT


def show(
    run: RunName = "latest",
    out: Out = DEFAULT_OUT,
    as_json: Json = False,
    as_markdown: Markdown = False,
    debug: Debug = False,
) -> None:
    """Show stored runs: ceilings, then each work with its backends, fastest first."""
    from membound.results.runs import rows_of

    one_format(as_json, as_markdown)
    rows = rows_of(run, out)
    if as_json:
        from membound.results.stats import records, summarize

        print_json(records(summarize(rows)))
        return
    if as_markdown:
        from membound.results.views.markdown import run_markdown

        typer.echo(run_markdown(rows), nl=False)
        return
    from membound.results.views.table import run_view

    console().print(run_view(rows))
