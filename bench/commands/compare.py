"""`membound compare`: runs, backends or devices side by side.

membound compare 20260101 latest
membound compare latest --backends numba:cpu torch:cpu
membound compare serve-a.json serve-b.json --by backend
"""

from __future__ import annotations

from typing import Annotated

import typer

from membound.bench.commands.options import (
    Debug,
    Json,
    Markdown,
    Out,
    console,
    one_format,
    print_json,
    print_text,
)
from membound.results.folders import DEFAULT_OUT


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Runs: files (also of other tools), `latest`, or starts of names; the first is what the others are "
            "compared with.",
        ),
    ],
    backends: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--backends", "-b", metavar="A B", help="Two backends of one run, or two engines of a load."
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            "--by",
            metavar="FIELD",
            help="run, backend or device: all that is named together, the first of them against each other one.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Compare runs of unlike machines.")] = False,
    out: Out = DEFAULT_OUT,
    as_json: Json = False,
    as_markdown: Markdown = False,
    debug: Debug = False,
) -> None:
    """Compare runs, backends or devices on the same works: ratios of time with intervals, and what they say.

    Geometric means stand above the pairs; what has no partner is listed with the field in which it differs.
    """
    from membound.bench import api
    from membound.results.stats import records

    one_format(as_json, as_markdown)
    found, points = api.compare_all(runs, backends, force, out, by)
    loads = records(points)
    parts = (found.table, found.groups, found.without_partner) if found is not None else ()
    pairs, groups, alone = [records(part) for part in parts] if parts else ([], [], [])
    doubt = found.doubt if found is not None else ""
    if as_json:
        print_json(
            {"pairs": pairs, "groups": groups, "without_partner": alone, "doubt": doubt, "loads": loads}
        )
        return
    from membound.results.views.comparison import comparison_markdown, comparison_view
    from membound.results.views.load_comparison import compare_points_view
    from membound.results.views.serving_text import compare_points_markdown

    if as_markdown:
        cases = comparison_markdown(pairs, groups, alone, doubt) if found is not None else ""
        print_text(cases + compare_points_markdown(loads))
        return
    if found is not None:
        console().print(comparison_view(pairs, groups, alone, doubt))
    if loads:
        console().print(compare_points_view(loads))
