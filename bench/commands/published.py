"""`membound published`: check what ships with the package, and renew its index and its page.

membound published
membound published results/published --into docs/published.md
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from membound.bench.commands.options import Debug, Json, console, print_json, print_text
from membound.results.plain_text import in_one_line


def published(
    folder: Annotated[
        str | None, typer.Argument(metavar="FOLDER", help="Published files; default: those of the package.")
    ] = None,
    into: Annotated[
        str | None,
        typer.Option("--into", metavar="FILE", help="Renew the index, this page, and charts beside it."),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the published runs after loading and judging every published file again, claims too.

    With --into it renews index.json in the folder, and the generated part of the page with its charts.
    """
    from membound.bench.claim.published_page import renew
    from membound.bench.claim.report import load_reports
    from membound.results import published_runs
    from membound.results.views.published import published_view

    place = Path(folder) if folder is not None else published_runs.folder()
    entries = published_runs.index_of(place)
    claims = load_reports([place])
    if into is not None:
        for path in renew(place, entries, Path(into)):
            print_text(f"{in_one_line(path)}\n", err=as_json)
    if as_json:
        print_json(
            {
                "runs": [asdict(entry) for entry in entries],
                "claims": [one.claim.meta.claim_id for one in claims],
            }
        )
    elif into is None:
        console().print(published_view(entries))
        print_text(f"{len(entries)} runs and {len(claims)} claims load and are judged.\n")
