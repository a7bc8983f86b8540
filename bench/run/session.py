"""One `membound run` from the first line it prints to its exit status.

>>> session = run_session([], ["mine"], Options(quick=True), Console(), Console(stderr=True))
>>> session.path, session.exit_status
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console, RenderableType

from membound.backends.registry import unlabelled
from membound.bench.api import go_on, measure, prepare
from membound.bench.planning.choice import Choice, OptionError, told
from membound.bench.planning.plan import Options, Plan
from membound.bench.protocol.interrupts import ENDING
from membound.bench.run.progress import progress_on
from membound.bench.run.resume import find_cut, partial_of, remaining
from membound.results.row import Row
from membound.results.stats import records, summarize
from membound.results.store import SUFFIX, load_rows
from membound.results.views.table import duel_view, run_view
from membound.results.wording import amount

FAILED = ("wrong", "crashed", "timeout", "oom", "error")
FAILED_IN_A_DUEL = (*FAILED, "unavailable")
"""Who is not there has not been beaten."""
ANSWERED, ANSWERED_IN_A_DUEL = ("ok", "unsupported"), ("ok",)
"""That a backend cannot do a work is an answer; a duel that timed nobody has none."""


@dataclass(frozen=True, slots=True)
class Session:
    """What a run left: its rows and their file."""

    path: Path
    rows: list[Row] = field(repr=False)
    interrupted: bool
    failing: Sequence[str] = FAILED
    """Statuses that make it fail."""
    answered: Sequence[str] = ANSWERED
    """Statuses of which a case must have one, or the run came to nothing."""

    @property
    def exit_status(self) -> int:
        """130 interrupted; 1 a case or the ceilings failed, or no case was answered; else 0."""
        if self.interrupted:
            return 130
        answered = any(row.kind == "case" and row.status in self.answered for row in self.rows)
        return 0 if answered and not any(row.status in self.failing for row in self.rows) else 1

    def records(self) -> list[dict[str, Any]]:
        """The summary, a case an object, as JSON can hold it."""
        return records(summarize(self.rows))

    def view(self) -> RenderableType:
        """The table."""
        return run_view(self.rows)

    def duel_view(self) -> RenderableType:
        """The table of a duel."""
        return duel_view(self.records())


def run_session(
    works: Sequence[str], backends: Sequence[str], options: Options, talk: Console, progress: Console
) -> Session:
    """Choose, tell what was chosen on `talk`, measure with bars or lines on `progress`.

    Raises SpecError, PlanError, UnknownBackend, BackendUnavailable, StoreError.
    """
    return _measured(*prepare(works, backends, options), talk, progress)


def duel_session(
    work: str, backends: Sequence[str], options: Options, talk: Console, progress: Console
) -> Session:
    """A run of one work on two backends or more. Raises as `run_session`, and OptionError for fewer."""
    plan, choice = prepare([work], backends, options)
    if len(choice.chosen) == 1:
        only = unlabelled(choice.chosen[0])
        raise OptionError(
            f"a duel needs two backends or more, and this one has {choice.chosen[0]} alone; to see what noise does, "
            f"name it twice: {only},{only}#2"
        )
    done = _measured(plan, choice, talk, progress)
    return replace(done, failing=FAILED_IN_A_DUEL, answered=ANSWERED_IN_A_DUEL)


def _measured(plan: Plan, choice: Choice, talk: Console, progress: Console) -> Session:
    for line in picked(plan, choice):
        talk.print(line, markup=False, highlight=False, soft_wrap=True)
    with noticing_interrupts() as interrupts, progress_on(progress) as reporter:
        path, rows = measure(plan, reporter)
    return Session(path, rows, bool(interrupts))


def resume_session(name: str, out: Path, talk: Console, progress: Console) -> Session:
    """Go on with a run that was cut short, telling on `talk` which and what is left.

    Raises StoreError, RowError, PlanError.
    """
    plan, path = find_cut(name, out)
    known = load_rows(partial_of(path))
    left = sum(len(cell.works) for cell in remaining(plan, known))
    talk.print(
        f"going on with {path.name.removesuffix(SUFFIX)}: {left} of {plan.total_cells} cases are left",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    with noticing_interrupts() as interrupts, progress_on(progress) as reporter:
        rows = go_on(plan, path, reporter)
    return Session(path, rows, bool(interrupts))


def picked(plan: Plan, choice: Choice) -> Iterator[str]:
    """What the run will do, a line each."""
    yield f"backends: {', '.join(choice.chosen)}"
    for device in choice.absent:
        yield f"  not here: {device.id} ({told(device)})"
    specs = dict.fromkeys(spec for cell in plan.cells for spec in sorted(cell.works))
    yield f"works: {len(specs)}"
    for spec in specs:
        yield f"  {spec}"
    processes = f"{plan.replicates} process" + ("es" if plan.replicates > 1 else "")
    limit = f", at most about {plan.time_limit_s:.0f} s" if plan.time_limit_s else ""
    yield (
        f"{plan.threads} thread{'s' * (plan.threads != 1)}, {processes} a case (rigor {plan.rigor}), seed {plan.seed}, "
        f"{amount(plan.memory_bytes, 'B')} of memory for inputs{limit}"
    )


@contextmanager
def noticing_interrupts() -> Iterator[list[int]]:
    """Collects Ctrl-C while raising KeyboardInterrupt as ever: the run ends itself in good order.

    TERM and HUP, which schedulers and closed terminals send, end it alike, unless they are ignored (nohup).
    """
    seen: list[int] = []

    def notice(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        signal.default_int_handler(number, frame)

    heeded = [one for one in ENDING if signal.getsignal(one) is not signal.SIG_IGN]
    before = {one: signal.signal(one, notice) for one in heeded}
    try:
        yield seen
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
