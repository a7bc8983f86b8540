"""`membound compare`: runs, backends or devices side by side.

membound compare 20260101 latest
membound compare latest --backends numba:cpu torch:cpu
membound compare serve-a.json serve-b.json --by backend
membound compare latest --fleet
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
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
    fleet: Annotated[
        bool,
        typer.Option("--fleet", help="The devices of a fleet: which are not like the others of their make."),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Compare runs of unlike machines.")] = False,
    out: Out = DEFAULT_OUT,
    as_json: Json = False,
    as_markdown: Markdown = False,
    debug: Debug = False,
) -> None:
    """Compare runs, backends or devices on the same works: ratios of time with intervals, and what they say.

    Geometric means stand above the pairs; what has no partner is listed with the field in which it differs. With
    --fleet, all runs named are one fleet, and its outliers are looked for.
    """
    one_format(as_json, as_markdown)
    if fleet:
        if backends or by or force:
            raise typer.BadParameter(
                "--fleet compares devices of one make: leave out --backends, --by and --force"
            )
        _compare_fleet(runs, out, as_json, as_markdown)
        return
    from membound.bench import api
    from membound.results.stats import records

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


def _compare_fleet(runs: Sequence[str], out: Path, as_json: bool, as_markdown: bool) -> None:
    from membound.results.fleet.device_run import device_runs
    from membound.results.fleet.outliers import compare_fleet
    from membound.results.fleet.record import fleet_record
    from membound.results.predict.catalogue import load_catalogue
    from membound.results.store import StoreError, each_row
    from membound.results.stored_runs import find_fleet
    from membound.results.views.fleet import fleet_markdown, fleet_view

    paths = [find_fleet(name, out) for name in dict.fromkeys(runs)]
    devices = device_runs(each_row(paths))
    if not devices:
        raise StoreError(
            f"{', '.join(map(str, paths))}: no rows of works or ceilings, so there are no devices"
        )
    found = compare_fleet(devices, load_catalogue())
    if as_json:
        print_json(fleet_record(found))
    elif as_markdown:
        print_text(fleet_markdown(found))
    else:
        console().print(fleet_view(found))
