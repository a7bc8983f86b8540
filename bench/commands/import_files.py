"""`membound import`: other tools' results as rows.

membound import results.json bench.jsonl --ceilings latest
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from membound.bench.commands.options import Debug, Json, Out, print_json, print_text
from membound.results.folders import DEFAULT_OUT
from membound.results.plain_text import in_one_line


def import_(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Result files of other tools.")],
    out: Out = DEFAULT_OUT,
    ceilings: Annotated[
        str | None,
        typer.Option(
            "--ceilings", metavar="RUN", help="A stored run whose ceilings their bytes are compared with."
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Import result files of other tools as runs, recognised by their content.

    What a file does not say stays missing; where it contradicts itself, that is reported and stored. Every file is read
    before the first run is written. docs/exchange.md lists the formats.
    """
    from membound.bench.planning.foreign_work import import_run
    from membound.results.stored_runs import rows_of

    limits = rows_of(ceilings, out) if ceilings is not None else None
    runs = [import_run(Path(file), limits, ceilings or "") for file in dict.fromkeys(files)]
    told: list[dict[str, Any]] = [run.write(out) for run in runs]
    if as_json:
        print_json(told)
        return
    for one in told:
        file, run = in_one_line(one["file"]), in_one_line(one["run"])
        print_text(f"{file}: {one['format']}, {one['rows']} row{'s' * (one['rows'] != 1)} in {run}\n")
        print_text("".join(f"  contradiction: {in_one_line(text)}\n" for text in one["contradictions"]))
        if one["missing"]:
            print_text(f"  not in the file: {in_one_line(', '.join(one['missing']))}\n")
