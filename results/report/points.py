"""Points of load as a report shows them.

>>> shown_points(rows)[0].record["ttft_p50_s"]
0.041
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from membound.results.row import Row
from membound.results.serving.table import point_records
from membound.results.stats import plain
from membound.results.wording import amount, duration


@dataclass(frozen=True, slots=True)
class ShownPoint:
    """One point of load. `record` has the columns of `serving.table`."""

    key: str
    """Its anchor in the page."""
    record: dict[str, Any]
    command: str
    """What the run was started with."""

    @property
    def server(self) -> str:
        """The engine that was started, or where a server that was there listened."""
        backend = str(self.record["backend"])
        return f"{backend} {self.record['device']}".strip() if backend == "url" else backend


def shown_points(rows: Sequence[Row]) -> list[ShownPoint]:
    """Every point among the rows. Latencies that are not known are None."""
    serving = [row for row in rows if row.kind == "serving"]
    records = plain(point_records(rows))
    blank = dict.fromkeys(name for record in records for name in record)
    for name in ("ttft", "tpot"):
        blank |= {f"{name}_p50_s": None, f"{name}_p99_s": None, f"{name}_p50_ci_s": None}
    return [
        ShownPoint(f"p{number}", blank | record, row.command)
        for number, (record, row) in enumerate(zip(records, serving, strict=True), 1)
    ]


def described_point(one: ShownPoint) -> str:
    """All that is to know of a point, for the hint of a mark."""
    record = one.record
    reasons = "; ".join(record["validity_reasons"] or ())
    parts = [
        f"{one.server}, {record['work']}",
        f"{amount(record['output_tokens_per_s'], 'tokens/s')}, first token {_latency(record, 'ttft')}, "
        f"a token {_latency(record, 'tpot')}",
        f"{record['validity']}{f': {reasons}' if reasons else ''}",
    ]
    return f"#{one.key} " + "\n".join(parts)


def _latency(record: dict[str, Any], name: str) -> str:
    ci = record[f"{name}_p50_ci_s"]
    around = "no interval" if ci is None else f"95 % interval {duration(ci[0], 3)} to {duration(ci[1], 3)}"
    return f"{duration(record[f'{name}_p50_s'], 3)} ({around})"
