"""The devices of a fleet beside each other, for terminals and as Markdown: outliers first, then every figure.

>>> from rich.console import Console
>>> from membound.results.fleet.outliers import compare_fleet
>>> Console().print(fleet_view(compare_fleet(runs, catalogue)))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from membound.results.fleet.device_run import READS, DeviceRun, Figure
from membound.results.fleet.outliers import ALPHA, Deviation, FleetComparison, FleetFigure, Group, Outlier
from membound.results.fleet.robust import FEWEST
from membound.results.fleet.sustained import sustained
from membound.results.plain_text import as_markdown, visible
from membound.results.roofline import device_class
from membound.results.views.markdown import LEFT, RIGHT, table_lines
from membound.results.views.timed import number_column
from membound.results.wording import amount, gigabytes_per_s, percent, short

MOST_OUTLIERS, MOST_FIGURES, MOST_DIFFERENCES, MOST_ABSENT = 50, 3, 6, 20
"""Of outliers, of the figures and the fields of each, and of devices without figures, in text; --json has all."""
HEADINGS = ("figure", "devices", "median", "paper", "±", "slowest", "fastest", "from")
LEGEND = (
    "median: of the devices' rates, GB/s where bytes are known. paper: of the bandwidth that the catalogue has for the device. "
    "±: robust spread over devices. slowest, fastest: shares of the median. from: the smallest difference from the median that "
    "is called an outlier here. Devices of another make (hardware, membound, Python, instruction sets; alone or not) are never mixed."
)


def fleet_view(found: FleetComparison) -> Lines:
    """For a terminal. Names are made visible before lines are broken: an escape is longer than what it stands for."""
    parts: list[RenderableType] = [Text(headline(found), style="bold")]
    for one in found.outliers[:MOST_OUTLIERS]:
        first, *rest = map(visible, outlier_lines(one))
        parts += [Text(first, style="yellow"), *(Text(f"  {line}") for line in rest)]
    parts += [Text(visible(line)) for line in remarks(found)]
    for group in found.groups:
        parts += [Text(), Text(visible(group_title(group)), style="bold")]
        parts += [Text(line) for line in sustained_lines(group)]
        if group.figures:
            parts.append(_table(group.figures))
    return Lines(*parts, Text(), Text(LEGEND, style="dim"))


def fleet_markdown(found: FleetComparison) -> str:
    """The same as Markdown."""
    lines = [f"**{as_markdown(headline(found))}**", ""]
    for one in found.outliers[:MOST_OUTLIERS]:
        first, *rest = map(as_markdown, outlier_lines(one))
        lines += [f"- {first}", *(f"  - {line}" for line in rest)]
    lines += ["", *(f"{as_markdown(line)}\n" for line in remarks(found))]
    for group in found.groups:
        lines += [f"### {as_markdown(group_title(group))}", ""]
        lines += [f"{line}\n" for line in sustained_lines(group)]
        if group.figures:
            cells = ([as_markdown(cell) for cell in figure_cells(one)] for one in group.figures)
            lines += table_lines(HEADINGS, (LEFT, *(RIGHT,) * 7), cells)
    return "\n".join([*lines, LEGEND, ""])


def headline(found: FleetComparison) -> str:
    """How many outliers of how many devices."""
    devices = sum(len(group.runs) for group in found.groups)
    of = f"of {devices} device{'s' * (devices != 1)}"
    if not found.tests:
        return f"Nothing can be told {of}: it takes {FEWEST} of one make with the same figure."
    count = len(found.outliers)
    return f"{count or 'No'} outlier{'s' * (count != 1)} {of}."


def outlier_lines(one: Outlier) -> Iterator[str]:
    """Who, by how much and in what; then other figures; then what it has that others have not."""
    first, *others = one.deviations
    rack = f", rack {one.run.rack}" if one.run.rack else ""
    yield f"{one.run.name}{rack}: {_by(first)}"
    if others:
        more = f", and {len(others) - MOST_FIGURES} more" if len(others) > MOST_FIGURES else ""
        yield f"also {'; '.join(map(_by, others[:MOST_FIGURES]))}{more}"
    for x in one.differences[:MOST_DIFFERENCES]:
        yield f"{x.field}: {x.value} ({x.of}: {x.usual})"
    if len(one.differences) > MOST_DIFFERENCES:
        yield f"{len(one.differences) - MOST_DIFFERENCES} more fields differ"
    if not one.differences:
        yield "no setting or counter of its rows differs from the fleet's"


def _by(one: Deviation) -> str:
    word, size = ("slower", 1 - one.share) if one.share < 1 else ("faster", one.share - 1)
    where = figure_name(one.figure) if one.figure else "all figures together"
    return f"{100 * size:.1f} % {word} in {where} (z {one.z:+.1f})"


def figure_name(figure: Figure | None) -> str:
    """Backend and work in short words, and the threads of a processor."""
    if figure is None:
        return "all, geometric mean"
    on_cpu = device_class(figure.backend) == "cpu" and figure.threads
    threads = f", {figure.threads} thread{'s' * (figure.threads != 1)}" if on_cpu else ""
    return f"{figure.backend} {short(figure.work)}{threads}"


def remarks(found: FleetComparison) -> Iterator[str]:
    """What is left out, devices without figures, and how often a clean fleet gives an alarm."""
    if len(found.outliers) > MOST_OUTLIERS:
        yield f"{len(found.outliers) - MOST_OUTLIERS} more outliers: --json has all"
    for one in found.without_figures[:MOST_ABSENT]:
        yield f"nothing was measured of {one.name}{_because(one)}"
    if len(found.without_figures) > MOST_ABSENT:
        yield f"nothing was measured of {len(found.without_figures) - MOST_ABSENT} more devices: --json has all"
    if found.tests:
        yield (
            f"Of fleets without an outlier at most {percent(ALPHA)} give any alarm, over all {found.tests} pairs of a device "
            "and a figure that were looked at."
        )


def _because(one: DeviceRun) -> str:
    reasons = [reason for reason, _ in one.failures.most_common(2)]
    return f": {'; '.join(reasons)}" if reasons else ""


def group_title(group: Group) -> str:
    """The make, how many there are, and what the catalogue calls it."""
    make, count = group.make, len(group.runs)
    words = [make.device or "device not named", f"{count} device{'s' * (count != 1)}"]
    words += [f"membound {make.membound}"] if make.membound else []
    words += [f"Python {make.python}"] if make.python else []
    words += [f"up to {make.isa.split()[-1]}"] if make.isa else []
    words += [f"beside {make.beside}"] if make.beside else []
    words += [f"catalogue: {group.catalogue}"] if group.catalogue else []
    words += [f"too few to tell outliers: it takes {FEWEST}"] if not group.figures else []
    return ", ".join(words)


def sustained_lines(group: Group) -> Iterator[str]:
    """What all devices of the make read in a second, by the read ceiling of their memory."""
    how = "each beside others of its machine" if group.make.beside else "each alone on its machine"
    for one in sustained(group.runs):
        if one.figure.work == READS[0]:
            between = f" ({amount(one.ci[0], 'B/s')} to {amount(one.ci[1], 'B/s')})" if one.ci else ""
            yield f"In all they read {amount(one.total, 'B/s')}{between}: {one.devices} devices, {how}."


def figure_cells(one: FleetFigure) -> list[str]:
    """The cells below HEADINGS."""
    return [
        figure_name(one.figure),
        str(one.devices),
        _rate(one),
        percent(one.of_catalogue),
        f"{100 * one.spread:.1f}%",
        f"{100 * one.lowest:.1f}%",
        f"{100 * one.highest:.1f}%",
        f"{100 * one.least:.1f}%",
    ]


def _rate(one: FleetFigure) -> str:
    if one.figure is None or one.median is None:
        return "–"
    return (
        gigabytes_per_s(one.median) if one.figure.unit == "bytes/s" else amount(one.median, one.figure.unit)
    )


def _table(figures: Sequence[FleetFigure]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    table.add_column(HEADINGS[0], overflow="fold")
    for name, size in zip(HEADINGS[1:], (7, 8, 5, 6, 7, 7, 6), strict=True):
        number_column(table, name, size)
    for one in figures:
        table.add_row(*map(visible, figure_cells(one)))
    return table
