from dataclasses import replace

import pytest
from rows import LINEAR, MACHINE, case, failed, run_rows

from membound.results.compare import COLUMNS, CompareError, compare_backends, compare_runs
from membound.results.stats import records


def test_ratio_is_b_over_a_with_an_interval_that_excludes_one():
    table = compare_runs(run_rows("run-a"), run_rows("run-b", scale=2.0))
    (first, *_rest) = records(table[table.work == LINEAR])
    assert first["time_ratio"] == pytest.approx(2.0)
    low, high = first["time_ratio_ci"]
    assert 1.9 < low <= 2.0 <= high < 2.1
    assert first["differs"] is True
    assert (first["run_a"], first["run_b"], first["backend_a"]) == ("run-a", "run-b", "alpha:cpu")
    assert list(table.columns) == list(COLUMNS)


def test_equal_runs_do_not_differ():
    table = records(compare_runs(run_rows("run-a"), run_rows("run-b")))
    assert [x["differs"] for x in table if x["work"] == LINEAR] == [False, False]


def test_one_process_gives_a_ratio_without_an_interval():
    a, b = [case(samples=[1.0])], [case(samples=[1.5], run_id="run-b")]
    (only,) = records(compare_runs(a, b))
    assert (only["time_ratio"], only["time_ratio_ci"], only["differs"]) == (1.5, None, None)


def test_backends_of_one_run_are_compared_on_the_same_work():
    (only,) = records(compare_backends(run_rows()[:-1], "alpha:cpu", "beta:cpu+x"))
    assert only["time_ratio"] == pytest.approx(2.05 / 1.005, rel=1e-3)
    assert (only["backend_a"], only["backend_b"], only["differs"]) == ("alpha:cpu", "beta:cpu+x", True)


def test_a_side_without_a_time_says_why():
    a = [case(), case(status="wrong", reason="error 0.5")]
    (only,) = records(compare_runs(a, [case(run_id="run-b")]))
    assert only["time_ratio"] is None
    assert only["time_a_s"] is None
    assert only["note"] == "A: wrong (error 0.5)"


def test_other_machines_are_refused_unless_forced():
    other = [replace(r, machine=MACHINE | {"cpu": "Other CPU"}) for r in run_rows("run-b")]
    with pytest.raises(CompareError, match=r"cpu: 'Test CPU' against 'Other CPU'.*--force"):
        compare_runs(run_rows(), other)
    assert len(compare_runs(run_rows(), other, force=True)) == 3


def test_an_unknown_machine_is_not_taken_for_the_same():
    with pytest.raises(CompareError, match="fingerprint"):
        compare_runs(run_rows(), [replace(r, machine={}) for r in run_rows("run-b")])


def test_memory_may_differ_by_what_the_kernel_keeps():
    near = [replace(r, machine=MACHINE | {"memory_bytes": (8 << 30) - 4096}) for r in run_rows("run-b")]
    assert len(compare_runs(run_rows(), near)) == 3


def test_only_like_work_is_compared():
    with pytest.raises(CompareError, match="share no work"):
        compare_runs([case()], [case(work=LINEAR.replace("m=1", "m=2"))])
    with pytest.raises(CompareError, match="share no work"):
        compare_runs([case()], [case(threads=1)])
    with pytest.raises(CompareError, match="share no work"):
        compare_backends([case(), case("beta:cpu", LINEAR.replace("float", "int8"))], "alpha:cpu", "beta:cpu")


def test_an_unknown_backend_is_named_with_those_there_are():
    with pytest.raises(CompareError, match=r"no backend 'gamma'; it has: alpha:cpu, beta:cpu\+x"):
        compare_backends(run_rows(), "alpha:cpu", "gamma")


def test_a_failure_on_both_sides_is_told_for_both():
    (only,) = records(compare_runs([failed("oom")], [failed("timeout", "60 s", run_id="run-b")]))
    assert only["note"] == "A: oom; B: timeout (60 s)"


def test_runs_on_unlike_accelerators_are_refused_unless_forced():
    def on(device, run_id):
        return case("alpha:cuda:0", device=device, accelerator={"pci": "x"}, run_id=run_id)

    same = compare_runs([on("GPU A", "a")], [on("GPU A", "b")])
    assert len(same) == 1
    with pytest.raises(
        CompareError, match=r"alpha:cuda:0 ran on different devices \('GPU A' against 'GPU B'\)"
    ):
        compare_runs([on("GPU A", "a")], [on("GPU B", "b")])
    assert len(compare_runs([on("GPU A", "a")], [on("GPU B", "b")], force=True)) == 1


def test_a_folder_that_was_moved_is_compared_with_itself():
    def at(path, content="0123456789ab", run_id="run-a"):
        work = f"step:model={path},batch=1,context=16,weight=f32,kv=f32,act=float,content={content}"
        return case(work=work, run_id=run_id)

    (line,) = records(compare_runs([at("here")], [at('"over, there"', run_id="run-b")]))
    assert (line["work"], line["time_ratio"]) == (at("here").work, 1.0)
    with pytest.raises(CompareError, match="share no work"):
        compare_runs([at("here")], [at("here", content="ba9876543210", run_id="run-b")])
