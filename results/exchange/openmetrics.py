"""Runs as OpenMetrics text: gauges that Prometheus, its push gateway and node_exporter's text files take in.

>>> path.write_text(openmetrics_text(rows))

Every figure carries run, backend, device, work and threads as labels, of a fleet also node and rack. What is missing has no
line.
"""

from __future__ import annotations

from collections.abc import Iterable

from membound.results.fleet.device_run import NODE, RACK
from membound.results.frame import encodable
from membound.results.plain_text import visible
from membound.results.row import Row
from membound.results.stats import COLUMNS, records, summarize

GAUGES = {
    "time_s": ("membound_time_seconds", "seconds"),
    "min_s": ("membound_fastest_time_seconds", "seconds"),
    "bytes": ("membound_work_bytes", "bytes"),
    "flops": ("membound_work_flops", ""),
    "achieved_bytes_per_s": ("membound_achieved_bytes_per_second", ""),
    "read_ceiling_bytes_per_s": ("membound_read_ceiling_bytes_per_second", ""),
    "mbu": ("membound_mbu_ratio", "ratio"),
    "mfu": ("membound_mfu_ratio", "ratio"),
    "of_bound": ("membound_of_bound_ratio", "ratio"),
}
"""Columns of the summary with their metric and its unit."""
LABELS = ("run_id", "backend", "device", "work", "threads")
PLACE = (NODE, RACK)
"""Labels that only the rows of a fleet have."""
ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


def openmetrics_text(rows: Iterable[Row]) -> str:
    """The exposition, with its closing line."""
    rows = list(rows)
    places = {encodable(row.run_id): _place(row) for row in rows}
    lines = [line | places[line["run_id"]] for line in records(summarize(rows))]
    out = []
    for column, (name, unit) in GAUGES.items():
        found = [line for line in lines if line[column] is not None]
        if found:
            out += [f"# TYPE {name} gauge", *([f"# UNIT {name} {unit}"] if unit else [])]
            out.append(f"# HELP {name} {COLUMNS[column].translate(ESCAPES)}")
            out += [f"{name}{{{_labels(line)}}} {float(line[column])!r}" for line in found]
    return "\n".join([*out, "# EOF", ""])


def _place(row: Row) -> dict[str, str]:
    """Node and rack, where the row names them."""
    return {name: str(row.machine[name]) for name in PLACE if row.machine.get(name)}


def _labels(line: dict[str, object]) -> str:
    names = (*LABELS, *(name for name in PLACE if name in line))
    return ",".join(f'{name}="{visible(str(line[name])).translate(ESCAPES)}"' for name in names)
