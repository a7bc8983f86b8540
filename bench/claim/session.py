"""One `membound claim` from the rules it prints first to its exit status.

>>> session = run_claim([1, 4], [], Options(), None, Console(), Console(stderr=True))
>>> session.path, session.exit_status
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from membound.backends.registry import names
from membound.bench.claim.claiming import Claiming
from membound.bench.claim.execute import execute
from membound.bench.claim.plan import CLOCKS, ClaimPlan, make_claim_plan, plain_devices
from membound.bench.claim.stored_pair import pair_observations
from membound.bench.machine.fingerprint import available_memory_bytes, fingerprint
from membound.bench.planning.choice import choose_backends, told
from membound.bench.planning.plan import Options
from membound.bench.run.progress import progress_on
from membound.bench.run.session import FAILED, noticing_interrupts
from membound.results.claim.experiments import Register, load_experiments
from membound.results.claim.file import Claim, load_claim, new_claim_path
from membound.results.claim.finding import Finding
from membound.results.claim.judge import judge_claim
from membound.results.store import RunWriter, new_run_id


@dataclass(frozen=True, slots=True)
class ClaimSession:
    """What a claim left: its file, what stands in it, and what it means."""

    path: Path
    claim: Claim = field(repr=False)
    findings: list[Finding] = field(repr=False)
    interrupted: bool

    @property
    def exit_status(self) -> int:
        """130 interrupted; 1 an arm or a ceiling failed, or nothing was measured; else 0. A refutation is no failure."""
        if self.interrupted:
            return 130
        measured = any(one.status == "ok" for one in self.claim.observations)
        statuses = {one.status for one in self.claim.observations} | {r.status for r in self.claim.ceilings}
        return 0 if measured and not statuses & {*FAILED} else 1


def run_claim(
    only: Collection[int],
    backends: Sequence[str],
    options: Options,
    pair: tuple[str, str] | None,
    out: Console,
    progress: Console,
) -> ClaimSession:
    """Print the experiments as they were written down, measure them, judge. Choices and rules go to `out`.

    Raises ClaimError, PlanError, UnknownBackend, BackendUnavailable, StoreError, RowError.
    """
    started_s = time.perf_counter()
    register = load_experiments()
    new_claim_path(options.out, "")  # an unwritable folder is told before runtimes are started
    make_claim_plan(only, names()[:1], options, register, available_memory_bytes())
    stored = pair_observations(pair, options.out) if pair is not None else []
    choice = choose_backends(backends, options.threads, options.pythons)
    plain, variants = plain_devices(choice.chosen)
    chosen = choice.chosen if backends else plain
    memory = available_memory_bytes()
    sizes = (choice.device_memory, choice.device_cache)
    plan = make_claim_plan(only, chosen, options, register, memory, *sizes, choice.variants)
    for line in beforehand(plan, register):
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    for device in choice.absent:
        out.print(f"not here: {device.id} ({told(device)})", markup=False, highlight=False, soft_wrap=True)
    if variants and not backends:
        out.print(f"left out unless named: {', '.join(variants)}", markup=False, highlight=False)
    path = new_claim_path(plan.out, new_run_id(str(fingerprint()["cpu"])))
    with noticing_interrupts() as interrupts, progress_on(progress) as reporter:
        run_id = path.name.partition(".")[0]
        with RunWriter(path) as writer:
            execute(Claiming(plan, register, writer, reporter, run_id, started_s), stored)
    claim = load_claim(path)
    findings = judge_claim(claim.observations, register, plan.experiments)
    return ClaimSession(path, claim, findings, bool(interrupts))


def beforehand(plan: ClaimPlan, register: Register) -> Iterator[str]:
    """What will be tested and what would refute it, as written down; then what was chosen, a line each."""
    yield f"claim: {register.claim}"
    yield f"experiments version {register.version}, sha256 {register.sha256[:16]}"
    for number in plan.experiments:
        experiment = register[number]
        yield f"{number} {experiment.name}: {experiment.hypothesis}"
        yield f"  refuted if: {experiment.falsified_if}"
    yield f"backends: {', '.join(plan.backends)}"
    limit = f", at most about {plan.time_limit_s:.0f} s" if plan.time_limit_s is not None else ""
    more = CLOCKS in plan.experiments and plan.clock_processes != plan.processes
    clocks = f" ({plan.clock_processes} of {CLOCKS})" if more else ""
    yield (
        f"{plan.threads} thread{'s' * (plan.threads != 1)}, {plan.processes} processes of each experiment{clocks} on "
        f"each backend (rigor {plan.rigor}), seed {plan.seed}{limit}"
    )
