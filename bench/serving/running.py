"""A load from its check to its file: what `membound load` does between its options and its table.

>>> check(load)
>>> path, rows, interrupted = measure_load(load, Path("results/runs"), "membound load …", talk, progress)
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from membound.bench.machine.fingerprint import fingerprint
from membound.bench.run.session import noticing_interrupts
from membound.bench.serving.client import Played
from membound.bench.serving.load import Load, LoadPoint
from membound.bench.serving.schedule import LoadError
from membound.bench.serving.session import prepare, run_load
from membound.results.row import Row
from membound.results.serving.slo import parse_slo
from membound.results.store import RunWriter, new_run_id, new_run_path

MOST_POINTS = 1000
NEEDED = ("httptools", "uvloop")


def numbers(name: str, text: str | None, whole: bool = False) -> tuple[float, ...]:
    """``1,2.5,4``: numbers above 0, each once. Raises LoadError."""
    found: list[float] = []
    for part in (text or "").split(",") if text is not None else ():
        try:
            value = float(part) if part.isascii() else 0.0
        except ValueError:
            value = 0.0
        if not 0 < value < 1e9 or (whole and not value.is_integer()):
            kind = "a whole number" if whole else "a number"
            raise LoadError(f"--{name} {text!r}: {part.strip()!r} is not {kind} above 0")
        found.append(value)
    if len(found) > MOST_POINTS:
        raise LoadError(f"--{name} has {len(found)} points, {MOST_POINTS} at most")
    return tuple(dict.fromkeys(found))


def check(load: Load) -> None:
    """Raises LoadError or SloError for what can be seen before anything is sent."""
    if load.slo:
        parse_slo(load.slo)
    for name, value, least in (
        ("seconds", load.seconds, 0.5),
        ("warm", load.warm_s, 0.0),
        ("drain", load.drain_s, 0.0),
        ("think", load.think_s, 0.0),
        ("timeout", load.limits.total_s, 0.1),
    ):
        if not least <= value <= 1e6:
            raise LoadError(f"--{name} {value:g} must be from {least:g} to 1000000 seconds")
    if load.shared_prefix < 0:
        raise LoadError(f"--shared-prefix {load.shared_prefix} must not be negative")
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise LoadError(f"{' and '.join(missing)} not installed: pip install 'membound[serving]'")


def measure_load(
    load: Load, out: Path, command: str, talk: Console, progress: Console
) -> tuple[Path, list[Row], bool]:
    """Play all points; the path of their file, their rows, and whether Ctrl-C cut them short.

    Raises LoadError as `prepare` does, and StoreError.
    """
    new_run_path(out, "")  # a folder that cannot be written to is refused before anything is sent
    prepared = prepare(load)
    if prepared.facts.fields.dropped:
        talk.print(f"the server does not take {', '.join(prepared.facts.fields.dropped)}", soft_wrap=True)
    run_id = new_run_id(fingerprint()["cpu"])
    kept: list[Row] = []
    interrupted = False
    with RunWriter(new_run_path(out, run_id)) as writer, noticing_interrupts():

        def keep(row: Row) -> None:
            writer.append(row)
            kept.append(row)

        def watch(point: LoadPoint, played: Played) -> None:
            done = sum(bool(one.end) for one in played.answers)
            progress.print(
                f"{point.label}: {len(played.answers)} sent, {done} done, {played.under_way} under way"
            )

        try:
            run_load(prepared, run_id, command, keep, watch)
        except KeyboardInterrupt:
            interrupted = True
    return writer.path, kept, interrupted
