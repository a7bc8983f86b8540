"""The worker process: reads one job from standard input, tells its progress in JSON lines, and ends.

    echo '{"job": "probe", "entry": "torch", "threads": 2}' | python -m membound.bench.worker

Jobs: ``probe`` (which devices an entry point has), ``measure`` (cases of one backend), ``ceilings``,
``trial`` (an experiment on one backend), ``coverage`` (what an entry point supports). Events, one JSON object
a line: ``hello``, ``device``, ``phase``, ``result``, ``outcome``, ``offers``, ``answers``, ``ceilings``,
``failed``, ``end``. They go to a private copy of standard output; file descriptor 1 itself is pointed at
standard error, so that nothing a runtime prints can break the protocol.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from membound.backends import registry
from membound.backends.api import Backend, BackendUnavailable, MemboundError
from membound.bench.machine import pick_cpus
from membound.bench.telemetry import delta, snapshot
from membound.bench.timing import Budget

Send = Callable[..., None]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> int:
    """Do the job on standard input; the exit status is 0 if it was understood."""
    events = _private_stdout()

    def send(event: str, **fields: Any) -> None:
        events.write(json.dumps({"event": event, **fields}, allow_nan=False) + "\n")
        events.flush()

    _die_with_parent()
    send("hello", python=sys.version.split()[0])
    job = json.loads(sys.stdin.readline())
    os.sched_setaffinity(0, pick_cpus(job["threads"]))
    jobs = {
        "probe": _probe,
        "measure": _measure,
        "ceilings": _ceilings,
        "trial": _trial,
        "coverage": _coverage,
    }
    jobs[job["job"]](job, send)
    send("end")
    return 0


def _private_stdout() -> TextIO:
    """The real standard output under a new descriptor; descriptor 1 becomes standard error."""
    sys.stdout.flush()
    private = os.dup(1)  # not inherited by processes that a runtime starts
    os.dup2(2, 1)
    return os.fdopen(private, "w", encoding="utf-8")


def _die_with_parent() -> None:
    """End with the harness even if it is killed: a worker left behind would disturb the next run."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _probe(job: dict[str, Any], send: Send) -> None:
    """Try the devices named, or every one that an entry point lists."""
    entry = job["entry"]
    prefix = entry.partition(".")[0]
    name = entry.replace(".", ":", 1)
    try:
        cls = registry.load(entry)
        devices = job.get("devices") or list(cls.devices())
    except BackendUnavailable as error:
        send("device", id=name, entry=entry, available=False, reason=error.reason, remedy=error.remedy)
        return
    for device in devices:
        found = _try_device(cls, device, job["threads"])
        send("device", **{"id": f"{prefix}:{device}", "entry": entry, **found})


def _try_device(cls: type[Backend], device: str, threads: int) -> dict[str, Any]:
    backend = cls()
    try:
        opened = backend.open(device, threads)
        backend.close()
    except BackendUnavailable as error:
        return {"available": False, "reason": error.reason, "remedy": error.remedy}
    except MemboundError as error:
        return {"available": False, "reason": str(error), "remedy": ""}
    except Exception as error:  # the outermost boundary around a runtime's start-up
        return {"available": False, "reason": f"{type(error).__name__}: {error}", "remedy": ""}
    return {"available": True, "reason": "", "remedy": "", **_fields_but_id(asdict(opened))}


def _fields_but_id(device: dict[str, Any]) -> dict[str, Any]:
    """A backend is known by the name it was asked for, whatever its `Device.id` says."""
    return {key: value for key, value in device.items() if key != "id"}


def _coverage(job: dict[str, Any], send: Send) -> None:
    """Ask every device of an entry point about all works."""
    from membound.bench.coverage import ask

    for answers in ask(job["entry"], job["threads"], job["works"]):
        send("answers", **asdict(answers))


def _measure(job: dict[str, Any], send: Send) -> None:
    """Measure the job's works one after the other, after the backend's own ceilings if they are asked for."""
    from membound.bench.case import Case, run_case
    from membound.kernels.cpu.compile import watch_compilation

    if job.get("asked"):
        _offer(job, send)
    if job.get("ceilings"):
        _measure_backend_ceilings(job, send)
    for work in job["works"]:
        case = Case(
            backend=job["backend"],
            work=work,
            seed=job["seed"],
            threads=job["threads"],
            replicate=job["replicate"],
            budget=Budget(**job["budget"]),
            memory_bytes=job["memory_bytes"],
            reference_dir=Path(job["reference_dir"]),
        )

        def tell(phase: str, work: str = work) -> None:
            send("phase", work=work, phase=phase)

        tell("opening")
        with watch_compilation(lambda name, tell=tell: tell(f"compiling {name}")):  # type: ignore[misc]
            row = run_case(case, tell)
        send("result", work=work, row=asdict(row))


def _offer(job: dict[str, Any], send: Send) -> None:
    """What the backend says it can do of the experiments asked about; if it fails, its ceilings and arms say how."""
    from membound.bench.arms import Arm
    from membound.bench.offers import offered

    asked = {int(number): [Arm(**arm) for arm in arms] for number, arms in job["asked"].items()}
    try:
        refused = offered(job["backend"], job["threads"], asked)
    except Exception:  # the outermost boundary around a runtime
        return
    send("offers", refused=refused)


def _trial(job: dict[str, Any], send: Send) -> None:
    """Measure the arms of an experiment."""
    from membound.bench.trial import run_trial, trial_of
    from membound.kernels.cpu.compile import watch_compilation

    now: list[int] = []

    def tell(phase: str, arms: list[int]) -> None:
        now[:] = arms
        send("phase", phase=phase, arms=arms)

    with watch_compilation(lambda name: tell(f"compiling {name}", list(now))):
        for outcome in run_trial(trial_of(job), tell):
            send("outcome", **asdict(outcome))


def _measure_backend_ceilings(job: dict[str, Any], send: Send) -> None:
    """What the backend itself can do at most; its failure is told as a ceiling, and the works go on."""
    from membound.bench.ceilings import Ceiling, measure_backend_ceilings
    from membound.bench.device_ceilings import measure_device_ceilings
    from membound.bench.device_counters import device_delta, open_counters
    from membound.kernels.cpu.compile import watch_compilation

    def tell(phase: str) -> None:
        send("phase", work="", phase=phase)

    tell("ceilings")
    before, counters, device_before = snapshot(), open_counters(None), None
    try:
        backend = registry.create(job["backend"])
        try:
            device = backend.open(registry.device_of(job["backend"]), job["threads"])
            counters = open_counters(device.accelerator)
            device_before = counters.read()
            with watch_compilation(lambda name: tell(f"compiling {name}")):
                ceilings = measure_device_ceilings(backend, device, job["quick"], tell)
                ceilings += measure_backend_ceilings(backend, device, tell, job["quick"])
        finally:
            backend.close()
    except BackendUnavailable:
        ceilings = []  # every case says so in a row of its own
    except Exception as error:  # the outermost boundary around a runtime
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        ceilings = [Ceiling("backend", None, "", (), {}, "error", reason)]
    telemetry = delta(before, snapshot()) | device_delta(device_before, counters.read())
    send("ceilings", ceilings=[asdict(c) for c in ceilings], telemetry=telemetry)


def _ceilings(job: dict[str, Any], send: Send) -> None:
    """Measure the limits of the machine, or with `only_read` its read bandwidth alone."""
    from membound.bench.ceilings import measure_ceilings, measure_read_ceiling
    from membound.kernels.cpu.compile import watch_compilation

    def tell(phase: str) -> None:
        send("phase", work="ceilings", phase=phase)

    tell("preparing")
    before = snapshot()
    with watch_compilation(lambda name: tell(f"compiling {name}")):
        if job.get("only_read"):
            ceilings = [measure_read_ceiling(job["threads"], tell)]
        else:
            ceilings = measure_ceilings(job["threads"], job["quick"], tell)
    send("ceilings", ceilings=[asdict(c) for c in ceilings], telemetry=delta(before, snapshot()))


if __name__ == "__main__":
    sys.exit(main())
