import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from checkpoints import folder_of

from membound.backends.registry import UnknownBackend
from membound.bench.measure.rounds import Pace
from membound.bench.planning import plan as planning
from membound.bench.planning import suites
from membound.bench.planning.plan import Options, interleave, make_plan
from membound.bench.planning.suites import PlanError, check_memory, needed_bytes
from membound.kernels.work import SpecError, parse

GB = 10**9
SMALL = "linear:n=64,k=96,m=1,weight=f32"


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fake_backends

    fake_backends.install(tmp_path / "site", monkeypatch)


pytestmark = pytest.mark.usefixtures("known")


def specs(works: list[str]) -> set[str]:
    return {parse(w).spec for w in works}


def test_default_suite_on_an_ordinary_machine() -> None:
    plan = make_plan(["ok:cpu", "segv:cpu"], [], Options(), 24 * GB)
    assert len(plan.cells) == 2 * 3
    assert all(set(cell.works) == specs(list(suites.DEFAULT_WORKS)) for cell in plan.cells)
    assert (plan.replicates, plan.repeats, plan.notes) == (3, 1, ())
    assert plan.time_limit_s is not None
    assert plan.time_limit_s <= 300
    assert plan.total_cells == 6 * 9
    assert plan.memory_bytes <= 12 * GB


def test_an_accelerator_has_a_suite_of_its_own_cut_to_its_memory() -> None:
    backends = ["ok:cpu", "ok:npu:0+graph"]
    plan = make_plan(backends, [], Options(), 100 * GB, {"ok:npu:0+graph": 80 * GB})
    by_backend = {cell.backend: set(cell.works) for cell in plan.cells}
    assert by_backend == {
        "ok:cpu": specs(list(suites.DEFAULT_WORKS)),
        "ok:npu:0+graph": specs(list(suites.DEVICE_WORKS)),
    }
    assert plan.time_limit_s == planning.DEVICE_LIMIT_S <= 480
    assert plan.notes == ()
    small = make_plan(backends[1:], [], Options(), 100 * GB, {"ok:npu:0+graph": 8 * GB})
    (step,) = (parse(work) for work in small.cells[0].works if work.startswith("step"))
    assert 1 <= step.layers < 32  # type: ignore[union-attr]
    assert needed_bytes(step) <= suites.DEVICE_SHARE * 8 * GB
    assert all("8.0 GB" in note for note in small.notes)
    quick = make_plan(backends, [], Options(quick=True), 100 * GB)
    assert {cell.backend: set(cell.works) for cell in quick.cells}["ok:npu:0+graph"] == specs(
        list(suites.DEVICE_QUICK_WORKS)
    )


def test_works_of_a_device_are_several_times_its_cache() -> None:
    for work in map(parse, suites.DEVICE_WORKS):
        if work.kind != "prefill":
            assert work.traffic.total_bytes > 100_000_000, work.spec


def test_quick_suite_is_one_replicate_of_few_layers() -> None:
    plan = make_plan(["ok:cpu"], [], Options(quick=True), 24 * GB)
    assert len(plan.cells) == 1
    assert any("layers=2" in work for work in plan.cells[0].works)
    assert plan.pace == planning.QUICK_PACE


def test_layers_are_cut_to_fit_memory_and_that_is_said() -> None:
    plan = make_plan(["ok:cpu"], [], Options(), 3 * GB)
    steps = [w for w in plan.cells[0].works if w.startswith("step")]
    assert len(steps) == 2
    assert len(plan.notes) == 2
    assert all(note.startswith("fewer layers to fit memory (3.0 GB") for note in plan.notes)
    for spec in steps:
        work = parse(spec)
        assert suites.COPIES * needed_bytes(work) <= 3 * GB
        assert 1 <= work.layers < 16  # type: ignore[union-attr]


def test_what_cannot_be_cut_is_left_out_and_that_is_said() -> None:
    plan = make_plan(["ok:cpu"], [], Options(), GB // 2)
    assert any(note.startswith("left out for lack of memory") for note in plan.notes)
    with pytest.raises(PlanError, match=r"no work of the suite fits memory: 0\.0 GB"):
        make_plan(["ok:cpu"], [], Options(), 1000)


def test_a_work_beyond_memory_names_both_figures() -> None:
    work = parse("step:model=llama-3-70b,weight=f32")
    with pytest.raises(PlanError) as caught:
        make_plan(["ok:cpu"], [work], Options(), 24 * GB)
    message = str(caught.value)
    assert f"({work.footprint_bytes} bytes)" in message
    assert f"24.0 GB ({24 * GB} bytes) are available" in message
    assert "layers=N" in message
    assert "\n" not in message


def test_two_input_sets_of_a_linear_must_fit() -> None:
    work = parse("linear:n=1000,k=1000,weight=f32")
    check_memory(work, 2 * work.footprint_bytes)
    with pytest.raises(PlanError, match=f"needs 0.0 GB .{2 * work.footprint_bytes} bytes"):
        check_memory(work, 2 * work.footprint_bytes - 1)


@pytest.mark.parametrize(
    ("backends", "works", "options", "error", "message"),
    [
        ([], [SMALL], Options(), PlanError, "no backend"),
        (["okk:cpu"], [SMALL], Options(), UnknownBackend, "did you mean ok"),
        (["ok:cpu"], ["linear:n=4"], Options(), SpecError, "k missing"),
        (["ok:cpu"], [SMALL], Options(threads=-1), PlanError, "threads=-1"),
        (["ok:cpu"], [SMALL], Options(threads=100_000), PlanError, f"to {len(os.sched_getaffinity(0))}"),
        (["ok:cpu"], [SMALL], Options(replicates=-3), PlanError, "replicates=-3"),
        (["ok:cpu"], [SMALL], Options(replicates=10**6), PlanError, "from 1 to 1000"),
        (["ok:cpu"], [SMALL], Options(rigor="extreme"), PlanError, "allowed: normal, high"),
        (["ok:cpu"], [SMALL], Options(seed=-1), PlanError, "seed=-1"),
    ],
)
def test_bad_input_is_one_line(
    backends: list[str], works: list[str], options: Options, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        make_plan(backends, works, options, GB)
    assert "\n" not in str(caught.value)


def test_high_rigor_measures_longer_and_more_often() -> None:
    plan = make_plan(["ok:cpu"], [SMALL], Options(rigor="high", replicates=4), GB)
    assert (plan.replicates, plan.max_replicates, plan.repeats) == (10, 40, 3)
    assert plan.pace == planning.HIGH_PACE
    assert plan.time_limit_s is None


def test_what_was_asked_for_is_kept() -> None:
    pace = Pace(5, 0.02, 2)
    options = Options(2, 2, seed=5, pace=pace, pythons={"ok": "/env/python"}, command="membound run")
    plan = make_plan(["ok:cpu", "ok:cpu", "segv:cpu"], [SMALL, parse(SMALL)], options, GB)
    assert [len(cell.works) for cell in plan.cells] == [1] * 4, "doubles count once"
    assert (plan.threads, plan.seed, plan.pace, plan.command) == (2, 5, pace, "membound run")
    assert (plan.python_for("ok:cpu"), plan.python_for("segv:cpu")) == ("/env/python", None)
    assert plan.time_limit_s is None, "asked for: measured in full"


def test_paces_grow_with_the_care_that_is_asked_for() -> None:
    paces = [planning.QUICK_PACE, planning.DEFAULT_PACE, planning.HIGH_PACE]
    for less, more in pairwise(paces):
        assert (less.rounds, less.seconds, less.least) < (more.rounds, more.seconds, more.least)
    assert all(3 <= pace.least <= pace.rounds for pace in paces), (
        "three turns at least, or none could be set aside"
    )
    assert make_plan(["ok:cpu"], [SMALL], Options(), GB).pace == planning.DEFAULT_PACE


def test_a_duel_takes_as_many_rounds_as_it_was_told_to() -> None:
    plan = make_plan(["ok:cpu", "ok:cpu#2"], [SMALL], planning.duel_options(7, seed=3, replicates=2), GB)
    assert plan.pace == Pace(7, planning.LONGEST_S, 7)
    assert (plan.seed, plan.replicates, plan.total_cells, plan.ceilings) == (3, 2, 4, True)
    assert plan.time_limit_s is None


def test_a_backend_may_take_part_twice_under_a_label() -> None:
    names = ["ok:cpu", "ok:cpu#2", "ok:npu:0+graph#b"]
    plan = make_plan(names, [], Options(pythons={"ok": "/env/python"}), 100 * GB, {names[2]: 80 * GB})
    works = {cell.backend: set(cell.works) for cell in plan.cells}
    assert works["ok:cpu"] == works["ok:cpu#2"] == specs(list(suites.DEFAULT_WORKS))
    assert works[names[2]] == specs(list(suites.DEVICE_WORKS))
    assert {plan.python_for(name) for name in names} == {"/env/python"}
    of_labels = replace(plan, pythons={"ok": "/env/python", "ok:cpu#2": "/two", "ok:npu:0+graph": "/npu"})
    assert [of_labels.python_for(name) for name in names] == ["/env/python", "/two", "/npu"]
    assert plan.time_limit_s == planning.DEVICE_LIMIT_S


def test_order_is_shuffled_by_the_seed_within_replicates() -> None:
    backends, works = [f"b{i}:cpu" for i in range(6)], [f"w{i}" for i in range(5)]
    asked = dict.fromkeys(backends, works)
    cells = interleave(asked, range(4), seed=1)
    assert cells == interleave(asked, range(4), seed=1)
    assert cells != interleave(asked, range(4), seed=2)
    orders = []
    for replicate in range(4):
        block = cells[6 * replicate : 6 * replicate + 6]
        assert {c.replicate for c in block} == {replicate}
        assert {c.backend for c in block} == set(backends)
        assert all(sorted(c.works) == works for c in block)
        orders.append([c.backend for c in block])
    assert len({tuple(o) for o in orders}) > 1
    assert len({c.works for c in cells}) > 1


def test_a_folder_and_its_copy_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first", "se,cond"):
        folder_of(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    both = [f"step:model={name},weight=f32" for name in ("first", '"se,cond"')]
    plan = make_plan(["ok:cpu"], both, Options(), 24 * GB)
    assert plan.cells[0].works == (parse(both[0]).spec,)
    assert plan.notes == ("se,cond and first are the same model: it is measured once",)
    other = make_plan(["ok:cpu"], [both[0], both[1].replace("f32", "int8")], Options(), 24 * GB)
    assert len(other.cells[0].works) == 2


def test_a_built_in_name_beside_a_folder_of_that_name_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_of(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    plan = make_plan(["ok:cpu"], ["step:model=tiny"], Options(), 24 * GB)
    assert plan.notes == ("tiny is the built-in model; the folder of that name is ./tiny",)
    assert make_plan(["ok:cpu"], ["step:model=./tiny"], Options(), 24 * GB).notes == ()
