"""`membound predict`: a work on devices that are not here, with the error of past predictions beside it.

membound predict step:model=llama-3-8b,weight=q4_k_m --on rtx_4090 m3_max
membound predict --validate
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from membound.bench.commands.hardware import Hardware
from membound.bench.commands.options import Debug, Json, Out, number_within, print_json, print_text
from membound.results.fields import LARGEST
from membound.results.folders import DEFAULT_OUT
from membound.results.predict.capacity import MEMORY_SHARE

if TYPE_CHECKING:
    from membound.results.predict.catalogue import Catalogue
    from membound.results.predict.forecast import Knowledge, Options

MOST_BATCH = 1 << 20
MOST_DEVICES = 4096


def batches(text: str) -> list[int]:
    """``1..256`` is its powers of two with both ends; ``1,8,64`` a list. Raises BadParameter."""
    whole = number_within(1, MOST_BATCH)
    if ".." not in text:
        return sorted({whole(one) for one in text.split(",")})
    low, _, high = text.partition("..")
    first, last = whole(low), whole(high)
    if first > last:
        raise typer.BadParameter(f"{text!r} runs backwards")
    found = [first]
    while found[-1] < last:
        found.append(min(2 * found[-1], last))
    return found


def share(text: str) -> float:
    """A number from 0 to 1, or a percentage. Raises BadParameter."""
    try:
        value = float(str(text).removesuffix("%")) / (100 if str(text).endswith("%") else 1)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a share such as 0.5 or 50%") from None
    if not 0 <= value <= 1:
        raise typer.BadParameter(f"{value:g} must be from 0 to 1")
    return value


def above_zero(text: str) -> float:
    """A number above 0. Raises BadParameter."""
    try:
        value = float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None
    if not 1 / LARGEST <= value <= LARGEST:
        raise typer.BadParameter(f"{value:g} must be above 0 and at most {LARGEST:g}")
    return value


On = Annotated[
    list[str] | None,
    typer.Option("--on", metavar="DEVICES", help="Devices, with commas or repeated (membound hardware)."),
]
Works = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="WORK", help="A spec, as for run, with more models and formats (docs/prediction.md)."
    ),
]
Count = Annotated[
    int | None,
    typer.Option(
        "--count",
        parser=number_within(1, MOST_DEVICES),
        metavar="N",
        help="Devices that share the work; default: the fewest that hold it.",
    ),
]
Offload = Annotated[
    float,
    typer.Option(
        "--offload", parser=share, metavar="SHARE", help="Weights that stream from the host's memory."
    ),
]
MemoryShare = Annotated[
    float,
    typer.Option("--memory-share", parser=share, metavar="SHARE", help="Of memory, for weights and cache."),
]
Link = Annotated[
    float | None,
    typer.Option(
        "--link",
        parser=above_zero,
        metavar="RATE",
        help="GB/s between devices, each way; default: the catalogue's.",
    ),
]
HostLink = Annotated[
    float | None,
    typer.Option(
        "--host-link",
        parser=above_zero,
        metavar="RATE",
        help="GB/s to the host; default: PCIe's, from the catalogue.",
    ),
]
Rows = Annotated[
    Path | None,
    typer.Option("--rows", metavar="FILE", help="Further measured rows, in CSV (docs/prediction.md)."),
]


def predict(
    works: Works = None,
    on: On = None,
    from_run: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="RUN", help="Learn from this run's works too: latest, a name, a file."
        ),
    ] = None,
    batch: Annotated[
        str,
        typer.Option("--batch", metavar="N", help="Such as 8, 1..256 (a curve with its knee), or 1,8,64."),
    ] = "",
    count: Count = None,
    memory_share: MemoryShare = MEMORY_SHARE,
    offload: Offload = 0.0,
    link: Link = None,
    host_link: HostLink = None,
    eager: Annotated[
        bool, typer.Option("--eager", help="Launches one by one, as without recorded graphs.")
    ] = False,
    validate: Annotated[
        bool, typer.Option("--validate", help="Leave out each device in turn and report the errors.")
    ] = False,
    summary: Annotated[
        bool, typer.Option("--summary", help="With --validate: the errors alone, without every row.")
    ] = False,
    rows: Rows = None,
    chart: Annotated[
        Path | None, typer.Option("--chart", metavar="FILE", help="With --validate: draw every row, as SVG.")
    ] = None,
    own: Hardware = None,
    out: Out = DEFAULT_OUT,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Predict a work's time on devices by three models, each with its interval and its record.

    The models are bandwidth only, FLOPs only, and launches + bytes + FLOPs, learnt from measured rows and never from
    the device that is predicted.
    """
    from membound.results.predict.catalogue import load_catalogue

    catalogue = load_catalogue(own)
    if validate:
        _validate(catalogue, rows, chart, summary, as_json)
        return
    work, names = asked(works, on)
    if work is None or not names:
        raise typer.BadParameter("give a WORK and --on DEVICES, or --validate")
    options = options_of(count, offload, link, host_link, memory_share, graphs=not eager)
    from membound.bench.planning.demands import demand_of

    is_operation = demand_of(work).kind == "operation"
    known = knowledge(catalogue, rows, out, from_run, is_operation)
    _predict(work, names, batches(batch) if batch else [], options, known, catalogue, as_json)


def names_of(on: list[str] | None) -> list[str]:
    """Names that were given with commas or repeated."""
    return [name.strip() for text in on or () for name in text.split(",") if name.strip()]


def asked(works: list[str] | None, on: list[str] | None) -> tuple[str | None, list[str]]:
    """(the work, the devices): words without a colon are devices, so that ``--on a b`` means both. Raises BadParameter."""
    specs = [word for word in works or () if ":" in word]
    if len(specs) > 1:
        raise typer.BadParameter(f"one work at a time; {specs[0]} and {specs[1]} are two")
    more = [word for word in works or () if ":" not in word]
    if more and not on:
        raise typer.BadParameter(f"{more[0]!r} is no work such as step:model=llama-3-8b; devices follow --on")
    return next(iter(specs), None), names_of([*(on or ()), *more])


def options_of(
    count: int | None,
    offload: float,
    link: float | None,
    host_link: float | None,
    memory_share: float,
    graphs: bool = True,
) -> Options:
    """Options as given, links in GB/s."""
    from membound.results.predict.forecast import Options

    return Options(
        devices=count,
        memory_share=memory_share,
        offload=offload,
        graphs=graphs,
        link_bytes_per_s=link * 1e9 if link else None,
        host_bytes_per_s=host_link * 1e9 if host_link else None,
    )


def knowledge(
    catalogue: Catalogue, rows: Path | None, out: Path, from_run: str | None = None, operations: bool = False
) -> Knowledge:
    """What published rows, a file of the user's and a run's works teach. Raises MemboundError, OSError.

    operations: published runs as well, whose single operations are the only ones that are known.
    """
    from membound.bench.planning.measured import measured_rows
    from membound.results.predict.forecast import Knowledge

    found = measured_rows(catalogue)[0]
    if rows is not None:
        found += measured_rows(catalogue, rows)[0]
    if from_run is not None:
        from membound.bench.planning.here import heres_of
        from membound.results.stored_runs import rows_of

        found += [row for here in heres_of(rows_of(from_run, out), catalogue) for row in here.rows]
    if operations:
        from membound.bench.planning.here import published_operations

        found += published_operations(catalogue)
    return Knowledge.of(found)


def _predict(
    work: str,
    names: list[str],
    sizes: list[int],
    options: Options,
    known: Knowledge,
    catalogue: Catalogue,
    as_json: bool,
) -> None:
    from membound.bench.planning.demands import demand_of
    from membound.results.predict.forecast import forecast, sweep
    from membound.results.views import predict as view

    devices = [catalogue.find(name) for name in names]
    if len(sizes) > 1:
        curves = [sweep(lambda size: demand_of(work, size), sizes, one, known, options) for one in devices]
        if as_json:
            print_json([[view.as_json(point) for point in curve] for curve in curves])
            return
        parts = [view.sweep_lines(curve) for curve in curves]
        found = [point for curve in curves for point in curve]
    else:
        demand = demand_of(work, sizes[0] if sizes else None)
        found = [forecast(demand, one, known, options) for one in devices]
        if as_json:
            print_json([view.as_json(one) for one in found])
            return
        parts = [view.forecast_lines(one) for one in found]
        parts += [view.ranking_lines(found)] if len(found) > 1 else []
    parts.append(view.past_lines(found))
    print_text("\n\n".join("\n".join(lines) for lines in [[work], *parts]) + "\n")


def _validate(
    catalogue: Catalogue, rows: Path | None, chart: Path | None, summary: bool, as_json: bool
) -> None:
    from membound.bench.planning.measured import measured_rows
    from membound.results.predict.record import further, with_intervals
    from membound.results.views import predict as view

    known, refused = measured_rows(catalogue)
    title = "measured rows of membound, each device left out in turn"
    if rows is None:
        record = with_intervals(known)
    else:
        fresh, refused = measured_rows(catalogue, rows)
        record = further(known, fresh)
        title = f"rows of {rows}, predicted from membound's rows of other devices"
    if chart is not None:
        from membound.results.exchange.whole_file import whole_file
        from membound.results.report.prediction import prediction_chart

        with whole_file(chart, replace=True) as scratch:
            scratch.write_text(prediction_chart(record), encoding="utf-8")
    if as_json:
        print_json(view.record_json(record, refused))
        return
    lines = view.record_lines(record, refused, title)
    lines += [] if summary else ["", *view.point_lines(record)]
    print_text("\n".join(lines) + "\n")
