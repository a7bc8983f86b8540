"""A suite again and again: rows of every pass, and what the harness holds after it.

>>> soak = soak_session([], ["mine"], options, minutes=60.0, passes=0, talk=Console())
>>> soak.exit_status, [one.text for one in soak.findings]
(0, [])
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any

from rich.console import Console

from membound.bench.api import measure, prepare
from membound.bench.planning.plan import Options, Plan
from membound.bench.run.progress import Silent
from membound.bench.run.session import FAILED, noticing_interrupts, picked
from membound.bench.soak.held import held
from membound.bench.soak.log import Log
from membound.results.row import Row
from membound.results.soak.judgement import Finding, findings, untold
from membound.results.soak.reading import Pass
from membound.results.stats import summarize
from membound.results.store import SUFFIX, load_rows, new_run_id
from membound.results.views.soak import pass_line

LOG = "passes.csv"
INVALID = "invalid"
"""Validity of a case of which every process was disturbed."""


@dataclass(frozen=True, slots=True)
class Soak:
    """What a soak came to. `folder` has the rows of each pass, and `passes` as a table."""

    folder: Path
    passes: list[Pass] = field(repr=False)
    interrupted: bool
    findings: list[Finding]
    """What it must not show."""

    @property
    def exit_status(self) -> int:
        """130 interrupted; 1 something was found; else 0."""
        return 130 if self.interrupted else int(bool(self.findings))

    def record(self) -> dict[str, Any]:
        """All of it, as JSON can hold it."""
        return {
            "folder": str(self.folder),
            "interrupted": self.interrupted,
            "findings": [{"kind": one.kind, "what": one.what, "text": one.text} for one in self.findings],
            "untold": untold(self.passes),
            "passes": list(_records(self.passes)),
        }


def soak_session(
    works: Sequence[str],
    backends: Sequence[str],
    options: Options,
    minutes: float,
    passes: int,
    talk: Console,
) -> Soak:
    """Play a plan until the minutes are over or `passes` are done (0: any number); a pass that has begun is finished.

    Each pass is a run of its own, in a new folder of `options.out`, with new processes. Raises as `run_session`.
    """
    folder = options.out / new_run_id("soak")
    plan, choice = prepare(works, backends, replace(options, out=folder))
    for line in picked(plan, choice):
        talk.print(line, soft_wrap=True)
    done: list[Pass] = []
    until = time.monotonic() + 60 * minutes
    with noticing_interrupts() as interrupts, Log(folder / LOG) as log:
        while not done or (time.monotonic() < until and len(done) != passes):
            one = _pass(plan)
            if interrupts:
                break  # its rows are kept, but it is no whole pass
            log.write(one)
            done.append(one)
            talk.print(pass_line(len(done), one, done[0]), soft_wrap=True)
    return Soak(folder, done, bool(interrupts), findings(done))


def _pass(plan: Plan) -> Pass:
    began = time.monotonic()
    path, _ = measure(plan, Silent())
    rows = load_rows(path)
    cases = Counter((row.backend, row.work, row.replicate) for row in rows if row.kind == "case")
    shares = dict(_shares(rows))
    return Pass(
        run_id=path.name.removesuffix(SUFFIX),
        seconds=time.monotonic() - began,
        expected=plan.total_cells,
        stored=len(cases),
        twice=sum(cases.values()) - len(cases),
        failed=sum(row.kind == "case" and row.status in FAILED for row in rows),
        shares={case: share for case, (share, _) in shares.items()},
        reading=held(),
        disturbed=frozenset(case for case, (_, validity) in shares.items() if validity == INVALID),
    )


def _shares(rows: Sequence[Row]) -> Iterator[tuple[tuple[str, str], tuple[float, str]]]:
    """The share of each case, and its validity."""
    for line in summarize(rows).to_dict("records"):
        share = line["of_bound"]  # missing where no ceiling is known
        if line["status"] == "ok" and share is not None and isfinite(share):
            yield (line["backend"], line["work"]), (float(share), line["validity"])


def _records(passes: Sequence[Pass]) -> Iterator[dict[str, Any]]:
    for one in passes:
        shares = [
            {"backend": b, "work": w, "of_bound": share, "disturbed": (b, w) in one.disturbed}
            for (b, w), share in one.shares.items()
        ]
        yield asdict(replace(one, shares={})) | {"shares": shares, "disturbed": len(one.disturbed)}
