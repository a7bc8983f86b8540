import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import fake_backends
import pytest

from membound.bench.claim.budget import Budget
from membound.bench.planning.plan import Cell, Options, Plan, make_plan
from membound.bench.planning.probe import probe, probe_devices
from membound.bench.protocol import process
from membound.bench.run import rounds
from membound.bench.run.execute import execute
from membound.bench.run.execute import execute as run
from membound.kernels.work import parse
from membound.results.roofline import Limits
from membound.results.row import Row
from membound.results.store import RunWriter, load_rows

WORKS = [f"linear:n=37,k=64,m={m},weight={w}" for m, w in ((1, "f32"), (3, "int4g32"))]
SPECS = {parse(w).spec for w in WORKS}
OPTIONS = Options(
    threads=1, budget=Budget(0.002, 0.004, overtime=1e6), command="membound run …", ceilings=False
)


class Heard:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.total = 0
        self.rows: list[Row] = []
        self.phases: list[str] = []
        self.notes: list[str] = []

    def start(self, total_cells: int) -> None:
        self.total = total_cells

    def cell(self, backend: str, work: str, replicate: int, phase: str) -> None:
        self.phases.append(phase)

    def done(self, row: Row) -> None:
        self.rows.append(row)

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fake_backends.install(tmp_path / "site", monkeypatch)
    return tmp_path


def planned(folder: Path, backends: list[str], **changes: Any) -> Plan:
    plan = make_plan(backends, WORKS, replace(OPTIONS, reference_dir=folder / "reference"), 10**9)
    return replace(plan, memory_bytes=50_000, repeats=0, **changes)


def executed(folder: Path, plan: Plan, **more: Any) -> tuple[list[Row], Heard, Path]:
    heard = Heard()
    with RunWriter(folder / "run.jsonl") as writer:
        rows = execute(plan, writer, heard, **more)
    return rows, heard, folder / "run.jsonl"


class FakeWorker:
    """Stands in for a process: `script` maps a job to its events, or raises."""

    jobs: ClassVar[list[dict[str, Any]]]
    script: Any

    def __init__(self, job: dict[str, Any], python: str = "") -> None:
        type(self).jobs.append(job)
        self.job, self.python = job, python

    def __enter__(self) -> "FakeWorker":
        return self

    def __exit__(self, *_: object) -> None: ...

    def events(self, limit_s: Any) -> Any:
        yield from type(self).script(self.job)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> type[FakeWorker]:
    class Scripted(FakeWorker):
        jobs: ClassVar[list[dict[str, Any]]] = []
        script = staticmethod(measured)

    monkeypatch.setattr(run, "Worker", Scripted)
    return Scripted


def case_row(job: dict[str, Any], spec: str, time_s: float = 0.01, **fields: Any) -> dict[str, Any]:
    work = parse(spec)
    row = Row("", "case", job["backend"], spec, "ok", replicate=job["replicate"], grade="clean")
    row.bytes, row.flops, row.samples_s = work.traffic.total_bytes, work.flops, [time_s] * 15
    row.working_set_bytes = 1 << 50
    return json.loads(row.to_json()) | fields


def measured(job: dict[str, Any], **fields: Any) -> Any:
    for spec in job["works"]:
        yield {"event": "phase", "work": spec, "phase": "timing"}
        yield {"event": "result", "work": spec, "row": case_row(job, spec, **fields)}


def test_real_workers_fill_a_run(fakes: Path) -> None:
    plan = planned(
        fakes, ["ok:cpu"], cells=(Cell("ok:cpu", 0, tuple(SPECS)), Cell("ok:cpu+twin", 1, tuple(SPECS)))
    )
    rows, heard, path = executed(fakes, plan)
    assert load_rows(path) == rows == heard.rows
    assert [(r.status, r.reason) for r in rows] == [("ok", "")] * 4
    assert {(r.backend, r.replicate, r.work) for r in rows} == {
        (backend, i, spec) for i, backend in enumerate(("ok:cpu", "ok:cpu+twin")) for spec in SPECS
    }
    assert {(r.run_id, r.command, r.seed, r.threads) for r in rows} == {("run", "membound run …", 1, 1)}
    assert all(r.machine["last_level_cache_bytes"] > 0 and len(r.samples_s) >= 15 for r in rows)
    assert heard.total == 4
    assert [p for p in heard.phases if not p.startswith("compiling")][:4] == [
        "opening",
        "preparing",
        "checking",
        "timing",
    ]


def test_probe_finds_devices_and_reasons(fakes: Path) -> None:
    found = {f.id: f for f in probe(["ok", "missing", "exits"], threads=1, pythons={"missing": "/no/python"})}
    assert list(found) == ["ok:cpu", "ok:cpu+twin", "ok:npu", "missing", "exits"]
    assert (found["ok:cpu"].available, found["ok:cpu"].name) == (True, "a fake processor")
    assert (found["ok:npu"].reason, found["ok:npu"].remedy) == (
        "no device 'npu'",
        "pip install another-machine",
    )
    assert found["missing"].reason.endswith("/no/python cannot be started: No such file or directory")
    assert found["exits"].reason.endswith("exit status 3: licence server not found")
    assert found["exits"].entry == "exits"


def test_a_device_that_a_backend_does_not_list_is_opened_by_name(fakes: Path) -> None:
    there, absent, broken = probe_devices(["ok:cpu+twin", "ok:gpu7", "missing:cpu"], threads=1)
    assert (there.id, there.available) == ("ok:cpu+twin", True)
    assert (absent.id, absent.available, absent.reason) == ("ok:gpu7", False, "no device 'gpu7'")
    assert absent.remedy == "pip install another-machine"
    assert (broken.id, broken.available) == ("missing", False)
    assert "no_such_module" in broken.reason


def test_cells_run_in_the_order_of_the_plan(tmp_path: Path, scripted: type[FakeWorker]) -> None:
    plan = make_plan(["numba:cpu", "numba:cpu+x"], WORKS, OPTIONS, 10**9)
    rows, _, _ = executed(tmp_path, plan)
    assert [(j["backend"], j["replicate"], tuple(j["works"])) for j in scripted.jobs] == [
        (c.backend, c.replicate, c.works) for c in plan.cells
    ]
    assert len(rows) == 2 * 3 * 2


def test_a_disturbed_replicate_is_kept_and_repeated(tmp_path: Path, scripted: type[FakeWorker]) -> None:
    bad = sorted(SPECS)[0]

    def script(job: dict[str, Any]) -> Any:
        for spec in job["works"]:
            grade = "contended" if spec == bad and job["replicate"] in (1, 3) else "clean"
            yield {"event": "result", "work": spec, "row": case_row(job, spec, grade=grade)}

    scripted.script = staticmethod(script)
    for repeats, expected in ((0, 6), (1, 7), (3, 8)):
        folder = tmp_path / str(repeats)
        folder.mkdir()
        plan = replace(make_plan(["numba:cpu"], WORKS, OPTIONS, 10**9), repeats=repeats)
        rows, _, _ = executed(folder, plan)
        assert len(rows) == expected
        assert [(r.work, r.replicate) for r in rows[6:]] == [(bad, 3), (bad, 4)][: expected - 6]
        assert sum(r.grade == "contended" for r in rows) == min(2, 1 + min(repeats, 1))


def test_high_rigor_adds_replicates_until_the_mean_is_known(
    tmp_path: Path, scripted: type[FakeWorker]
) -> None:
    noisy = sorted(SPECS)[0]

    def script(job: dict[str, Any]) -> Any:
        for spec in job["works"]:
            time_s = 0.01 * (1 + (0.05 if spec == noisy and job["replicate"] % 2 else 0.0))
            yield {"event": "result", "work": spec, "row": case_row(job, spec, time_s)}

    scripted.script = staticmethod(script)
    plan = make_plan(["numba:cpu"], WORKS, replace(OPTIONS, rigor="high"), 10**9)
    rows, _, _ = executed(tmp_path, plan)
    counts = {spec: sum(r.work == spec for r in rows) for spec in SPECS}
    assert counts[max(SPECS)] == 10
    times = [r.samples_s[0] for r in rows if r.work == noisy]
    assert 10 < len(times) < 40
    assert rounds.half_width(times) <= 0.01 < rounds.half_width(times[:-1])


def test_half_width_is_students() -> None:
    assert rounds.half_width([1.0, 2.0, 3.0]) == pytest.approx(4.302652729911275 / 3**0.5 / 2)
    assert rounds.half_width([1.0]) == rounds.half_width([]) == float("inf")


def test_failures_are_not_tried_again_but_crashes_are(tmp_path: Path, scripted: type[FakeWorker]) -> None:
    crashing, unsupported = sorted(SPECS)

    def script(job: dict[str, Any]) -> Any:
        for spec in sorted(job["works"], reverse=True):
            yield {"event": "phase", "work": spec, "phase": "preparing"}
            if spec == crashing:
                raise process.WorkerDiedError("SIGBUS: bye")
            row = case_row(job, spec, status="unsupported", samples_s=[])
            yield {"event": "result", "work": spec, "row": row}

    scripted.script = staticmethod(script)
    rows, _, _ = executed(tmp_path, make_plan(["numba:cpu"], WORKS, OPTIONS, 10**9))
    assert [(r.work, r.status) for r in rows] == [(unsupported, "unsupported")] + 3 * [(crashing, "crashed")]
    assert rows[-1].reason == "while preparing: SIGBUS: bye"
    assert rows[-1].bytes == parse(crashing).traffic.total_bytes


def test_death_between_works_blames_none(tmp_path: Path, scripted: type[FakeWorker]) -> None:
    def script(job: dict[str, Any]) -> Any:
        yield {"event": "result", "work": job["works"][0], "row": case_row(job, job["works"][0])}
        raise process.WorkerDiedError("SIGSEGV")

    scripted.script = staticmethod(script)
    plan = make_plan(["numba:cpu"], WORKS, replace(OPTIONS, replicates=1), 10**9)
    rows, _, _ = executed(tmp_path, plan)
    assert [r.status for r in rows] == ["ok", "ok"]
    assert len(scripted.jobs) == 2


@pytest.mark.parametrize("at", [0, 1, 3])
def test_ctrl_c_keeps_what_is_done(tmp_path: Path, scripted: type[FakeWorker], at: int) -> None:
    seen = []

    def script(job: dict[str, Any]) -> Any:
        for event in measured(job):
            if event["event"] == "result":
                seen.append(event)
                if len(seen) > at:
                    raise KeyboardInterrupt
            yield event

    scripted.script = staticmethod(script)
    rows, heard, path = executed(tmp_path, make_plan(["numba:cpu"], WORKS, OPTIONS, 10**9))
    assert len(rows) == at
    assert load_rows(path) == rows
    assert heard.notes == [f"interrupted; the {at} cases measured so far are kept"]


def test_time_limit_leaves_later_replicates_out(
    tmp_path: Path, scripted: type[FakeWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(run.time, "monotonic", lambda: now[0])

    def script(job: dict[str, Any]) -> Any:
        now[0] += 30
        yield from measured(job)

    scripted.script = staticmethod(script)
    plan = replace(make_plan(["numba:cpu", "numba:cpu+x"], WORKS, OPTIONS, 10**9), time_limit_s=100)
    rows, heard, _ = executed(tmp_path, plan)
    assert [r.replicate for r in rows] == [0, 0, 0, 0, 1, 1]
    assert len(heard.notes) == 1
    assert heard.notes[0].startswith("time limit of 100 s reached: 3 worker processes were left out")


def ceilings(read: float) -> Any:
    def script(job: dict[str, Any]) -> Any:
        if job["job"] == "measure":
            yield from measured(job, time_s=1e-6)
            return
        ceiling = {
            "name": "read",
            "value": read,
            "unit": "bytes/s",
            "config": {"threads": 1},
            "samples": [0.1],
        }
        ceiling |= {"status": "ok", "reason": ""}
        yield {"event": "phase", "work": "ceilings", "phase": "read"}
        yield {"event": "ceilings", "ceilings": [ceiling], "telemetry": {}}

    return script


@pytest.mark.parametrize(("read", "above"), [(1e9, True), (1e12, False)])
def test_a_case_above_its_ceiling_has_it_measured_again(
    tmp_path: Path, scripted: type[FakeWorker], read: float, above: bool
) -> None:
    scripted.script = staticmethod(ceilings(read))
    plan = make_plan(["numba:cpu"], WORKS, replace(OPTIONS, ceilings=True, replicates=1), 10**9)
    rows, heard, _ = executed(tmp_path, plan)
    kinds = [r.kind for r in rows]
    assert kinds == ["ceiling", "case", "case", "ceiling"] + ["ceiling"] * above
    assert [r.config.get("above_ceiling", False) for r in rows if r.kind == "case"] == [above] * 2
    first = rows[0]
    assert (first.work, first.value, first.unit, first.backend) == ("read", read, "bytes/s", "cpu")
    assert (first.threads, first.samples_s, first.grade) == (1, [0.1], "unknown")
    assert [j["job"] for j in scripted.jobs] == ["ceilings", "measure", "ceilings"] + ["ceilings"] * above
    assert [j["only_read"] for j in scripted.jobs if j["job"] == "ceilings"] == [False, True, False][
        : 2 + above
    ]
    assert rows[-1].replicate == (2 if above else 1)
    assert len(heard.notes) == above


def test_what_fits_the_cache_says_nothing_about_the_ceiling(
    tmp_path: Path, scripted: type[FakeWorker]
) -> None:
    def script(job: dict[str, Any]) -> Any:
        if job["job"] == "measure":
            yield from measured(job, time_s=1e-6, working_set_bytes=1000)
        else:
            yield from ceilings(1e9)(job)

    scripted.script = staticmethod(script)
    plan = make_plan(["numba:cpu"], WORKS, replace(OPTIONS, ceilings=True, replicates=1), 10**9)
    rows, _, _ = executed(tmp_path, plan)
    assert [r.kind for r in rows] == ["ceiling", "case", "case", "ceiling"]
    assert all(r.config == {"above_ceiling": True} for r in rows[1:3])


def test_the_read_ceiling_is_measured_again_after_each_replicate(
    tmp_path: Path, scripted: type[FakeWorker]
) -> None:
    scripted.script = staticmethod(ceilings(1e12))
    plan = make_plan(["numba:cpu"], WORKS, replace(OPTIONS, ceilings=True, replicates=3), 10**9)
    rows, _, _ = executed(tmp_path, plan)
    assert [r.kind for r in rows] == ["ceiling"] + ["case", "case", "ceiling"] * 3
    assert [r.replicate for r in rows if r.kind == "ceiling"] == [0, 1, 2, 3]


def test_failed_ceilings_are_a_row_and_cases_go_on(tmp_path: Path, scripted: type[FakeWorker]) -> None:
    def script(job: dict[str, Any]) -> Any:
        if job["job"] == "ceilings":
            raise process.WorkerDiedError("exit status 1: no OpenMP")
        yield from measured(job)

    scripted.script = staticmethod(script)
    plan = make_plan(["numba:cpu"], WORKS, replace(OPTIONS, ceilings=True, replicates=1), 10**9)
    rows, _, _ = executed(tmp_path, plan)
    assert (rows[0].kind, rows[0].status, rows[0].reason) == (
        "ceiling",
        "crashed",
        "exit status 1: no OpenMP",
    )
    assert [r.status for r in rows[1:]] == ["ok", "ok", "crashed"]


def test_a_backends_own_ceilings_are_measured_once_and_their_crash_costs_no_case(
    tmp_path: Path, scripted: type[FakeWorker]
) -> None:
    def script(job: dict[str, Any]) -> Any:
        if job["job"] == "ceilings":
            return
        if job["ceilings"]:
            yield {"event": "phase", "work": "", "phase": "gemm_bf16"}
            if job["backend"] == "numba:cpu":
                raise process.WorkerDiedError("SIGILL")
            ceiling = {"name": "gemm_f32", "value": 1e11, "unit": "FLOP/s", "config": {}, "samples": [0.1]}
            ceiling |= {"status": "ok", "reason": ""}
            yield {"event": "ceilings", "ceilings": [ceiling], "telemetry": {}}
        yield from measured(job)

    scripted.script = staticmethod(script)
    plan = make_plan(["numba:cpu", "numba:cpu+x"], WORKS, replace(OPTIONS, ceilings=True), 10**9)
    rows, _, _ = executed(tmp_path, plan)
    found = {r.backend: (r.work, r.status, r.reason, r.value) for r in rows if r.kind == "ceiling"}
    assert found == {
        "numba:cpu": ("ceilings", "crashed", "while gemm_bf16: SIGILL", None),
        "numba:cpu+x": ("gemm_f32", "ok", "", 1e11),
    }
    assert [r.status for r in rows if r.kind == "case"] == ["ok"] * 12
    assert [j["ceilings"] for j in scripted.jobs if j["job"] == "measure"].count(True) == 2


def test_limits_depend_on_the_phase() -> None:
    plan = make_plan(["numba:cpu"], WORKS, replace(OPTIONS, budget=Budget(1.0, 2.0)), 10**9)
    limits = Limits()
    assert limits.after({"event": "phase", "phase": "timing"}, plan) == 90
    assert limits.after({"event": "phase", "phase": "compiling x"}, plan) == 300
    assert limits.after({"event": "spawned"}, plan) == 300
