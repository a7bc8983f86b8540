"""`membound compare`: two runs, or two backends of one run.

membound compare 20260101 latest
membound compare latest --backends numba:cpu torch:cpu
"""

from __future__ import annotations

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
from membound.results.stored_runs import DEFAULT_OUT


def compare(
    a: RunName,
    b: Annotated[str | None, typer.Argument(metavar="RUN", help="The other run; or use --backends.")] = None,
    backends: Annotated[
        tuple[str, str] | None,
        typer.Option("--backends", "-b", metavar="A B", help="Two backends of one run."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Compare runs of unlike machines.")] = False,
    out: Out = DEFAULT_OUT,
    as_json: Json = False,
    as_markdown: Markdown = False,
    debug: Debug = False,
) -> None:
    """Compare two runs, or two backends of one run: ratios of time with bootstrap intervals over processes."""
    from membound.bench import api
    from membound.results.stats import records
    from membound.results.views.table import compare_view

    one_format(as_json, as_markdown)
    table, points = api.compare_all(a, b, backends, force, out)
    cases, loads = records(table), records(points)
    if as_json:
        print_json([*cases, *loads])
        return
    from membound.results.views.serving_text import compare_points_markdown, compare_points_view

    if as_markdown:
        from membound.results.views.markdown import compare_markdown

        print_text((compare_markdown(cases) if cases else "") + compare_points_markdown(loads))
        return
    if cases:
        console().print(compare_view(cases))
    if loads:
        console().print(compare_points_view(loads))
