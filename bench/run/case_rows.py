"""Cases as rows: of a contestant with its turns, or of a work that could not be measured.

>>> row = measured_row(contestant, checked, about)
>>> row.status, len(row.turns)
('ok', 12)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from membound.bench.machine.validity import grade_turns
from membound.bench.measure.contestant import Contestant
from membound.bench.measure.failures import Failure
from membound.bench.protocol.messages import Checked, Opened, Prepared, Turned
from membound.bench.run.ceiling_rows import now
from membound.kernels.tolerances import tolerance
from membound.kernels.work import parse
from membound.results.row import EXCHANGED, Row
from membound.results.turns import StoredTurn

UNCHECKED = "its process was killed, and the run ended before its last output could be checked"


@dataclass(frozen=True, slots=True)
class About:
    """What a case's row says besides its figures."""

    run_id: str
    backend: str
    work: str
    replicate: int
    threads: int
    seed: int
    device: Opened | None = None
    prepared: Prepared | None = None


def blank_row(about: About) -> Row:
    """A case without figures."""
    work = parse(about.work)
    row = Row(
        run_id=about.run_id,
        kind="case",
        backend=about.backend,
        work=work.spec,
        status="ok",
        replicate=about.replicate,
        seed=about.seed,
        threads=about.threads,
        started_at=now(),
        bytes=work.traffic.total_bytes,
        flops=work.flops,
        traffic=asdict(work.traffic),
        tolerance=tolerance(work),
    )
    if about.device is not None:
        row.device, row.versions = about.device.device, dict(about.device.versions)
        row.accelerator, row.memory_ceiling = dict(about.device.accelerator), about.device.memory_ceiling
    if about.prepared is not None:
        one = about.prepared
        row.stored_bytes, row.slots, row.launches = one.stored_bytes, one.slots, one.launches
        row.working_set_bytes, row.error = one.working_set_bytes, one.error
        row.prepare_s, row.first_s = one.prepare_s, one.first_s
        if one.exchanged_bytes:
            row.traffic[EXCHANGED] = one.exchanged_bytes
    return row


def failed_row(about: About, failure: Failure, turns: Sequence[StoredTurn] = ()) -> Row:
    """A case without a time. Turns that were taken before it failed are kept, and never summarised."""
    row = blank_row(about)
    row.status, row.reason, row.turns = failure.status, failure.reason, list(turns)
    if failure.status == "wrong":
        row.error = failure.error
    return row


def unchecked_row(about: About, turns: Sequence[StoredTurn]) -> Row:
    """A case of a killed process that no other went on with: nobody checked its last output, so that it is set aside."""
    row = blank_row(about)
    row.turns, row.grade, row.grade_reasons = list(turns), "invalid", [UNCHECKED]
    return row


def measured_row(
    one: Contestant, checked: Checked, about: About, hot: Turned | None = None, long: Turned | None = None
) -> Row:
    """A case whose last output is right. `hot` and `long` are turns of another kind, apart from the headline."""
    row = blank_row(about)
    row.turns, row.error = list(one.turns), checked.error
    row.config = {name: value for name, value in checked.settings.items() if name != "working_set_bytes"}
    row.working_set_bytes = checked.settings.get("working_set_bytes", row.working_set_bytes)
    row.telemetry = dict(checked.telemetry)
    if hot is not None:
        row.hot_samples_s = [hot.time_s]
    if long is not None and long.device_s is not None:
        row.telemetry |= long.telemetry
        row.device_samples_s, row.timed_launches = [long.device_s], long.launches
    row.grade, row.grade_reasons = grade_turns(row.turns, row.telemetry)
    return row
