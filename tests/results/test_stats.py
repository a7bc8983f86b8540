import json
from dataclasses import replace

import numpy as np
import pytest
from rows import LINEAR, MACHINE, case, ceiling, failed, run_rows

from membound.results.intervals import interval
from membound.results.roofline import compute_ceilings, device_class, limits_of, settings
from membound.results.row import Row, RowError
from membound.results.stats import COLUMNS, records, summarize, usable


def line(rows, **where):
    table = summarize(rows)
    for key, value in where.items():
        table = table[table[key] == value]
    (only,) = records(table)
    return only


def test_time_is_the_median_over_process_medians_not_over_samples():
    rows = [case(samples=[1.0] * 9), case(samples=[2.0, 2.0, 50.0]), case(samples=[3.0])]
    figures = line(rows)
    assert figures["time_s"] == 2.0
    assert figures["min_s"] == 1.0
    assert figures["replicates"] == 3
    assert figures["p95_s"] is None


def test_a_95th_percentile_needs_twenty_samples():
    samples = [1.0] * 9 + [2.0, 2.0, 50.0] + [3.0] * 7
    assert line([case(samples=samples)])["p95_s"] is None
    expected = np.quantile([*samples, 4.0], 0.95)
    assert line([case(samples=samples), case(samples=[4.0])])["p95_s"] == pytest.approx(expected)
    assert line([case(samples=[*samples, 4.0], config={"samples": "a summary"})])["p95_s"] is None


def test_interval_resamples_processes_and_repeats_exactly():
    rng = np.random.default_rng()
    medians = rng.uniform(1, 2, 7)
    low, high = interval(medians)
    assert 0 < low < np.exp(np.log(medians).mean()) < high
    assert interval(medians) == (low, high)


def test_interval_of_equal_processes_has_no_width_however_wild_their_samples():
    rows = [case(samples=[1.0, 2.0, 9.0]) for _ in range(4)]
    assert line(rows)["time_ci_s"] == [2.0, 2.0]


def test_interval_covers_the_true_median_about_as_often_as_it_says():
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(60):
        low, high = interval(rng.normal(10, 1, 15))
        hits += low <= 10 <= high
    assert 51 <= hits <= 60


def test_one_process_has_no_interval():
    assert line([case(samples=[1.0, 2.0, 3.0])])["time_ci_s"] is None


def test_figures_follow_from_bytes_flops_and_ceilings():
    rows = [
        case(samples=[0.01]),
        ceiling("read", 12.5e9, "bytes/s"),
        ceiling("fma_f32", 2e11, "FLOP/s"),
        ceiling("gemm_bf16", 1e12, "FLOP/s", backend="beta:cpu"),
        ceiling("launch", 1e-6, "s"),
    ]
    figures = line(rows)
    assert figures["achieved_bytes_per_s"] == pytest.approx(1e10)
    assert figures["achieved_flops_per_s"] == pytest.approx(1e11)
    assert figures["read_ceiling_bytes_per_s"] == 12.5e9
    assert figures["compute_ceiling_flops_per_s"] == 1e12
    assert figures["mbu"] == pytest.approx(0.8)
    assert figures["mfu"] == pytest.approx(0.1)
    assert figures["roofline"] == figures["of_bound"] == pytest.approx(0.8)
    assert figures["bound_s"] == pytest.approx(0.008)
    assert figures["launch_s"] == 1e-6
    assert figures["verdict"] == "memory"
    assert not figures["above_ceiling"]


def test_the_lowest_measurement_of_the_read_ceiling_stands_beside_the_best():
    rows = [case(samples=[0.01]), *(ceiling("read", v, "bytes/s") for v in (12.5e9, 20e9, 11e9))]
    figures = line([*rows, ceiling("fma_f32", 2e12, "FLOP/s")])
    assert (figures["read_ceiling_bytes_per_s"], figures["read_ceiling_lowest_bytes_per_s"]) == (20e9, 11e9)
    assert figures["verdict"] == "inconclusive"
    assert "the memory ceiling moved" in figures["verdict_reason"]


def test_a_case_faster_than_its_ceiling_is_marked():
    figures = line([case(samples=[0.01]), ceiling("read", 5e9, "bytes/s")])
    assert figures["above_ceiling"]
    assert figures["mbu"] == pytest.approx(2.0)
    assert figures["verdict"] == "inconclusive"


def test_ceilings_of_another_run_device_or_thread_count_do_not_count():
    rows = [
        case(),
        ceiling("read", 1e9, "bytes/s", run_id="run-b"),
        ceiling("read", 2e9, "bytes/s", backend="alpha:cuda:0"),
        ceiling("read", 3e9, "bytes/s", threads=1),
        ceiling("read", 4e9, "bytes/s", status="error"),
    ]
    figures = line(rows)
    assert figures["read_ceiling_bytes_per_s"] is None
    assert figures["mbu"] is None
    assert figures["verdict"] == "inconclusive"


def test_a_ceiling_is_the_best_of_its_measurements_and_backends():
    rows = [ceiling("read", v, "bytes/s", replicate=i) for i, v in enumerate((1e9, 9e9, 2e9))]
    rows += [ceiling("gemm_bf16", v, "FLOP/s", backend=b) for b, v in (("a:cpu", 5.0), ("b:cpu+y", 7.0))]
    rows += [ceiling("launch", v, "s") for v in (2e-6, 1e-6)] + [
        ceiling("launch", 1e-9, "s", backend="b:cpu")
    ]
    limits = limits_of(case(), rows)
    assert limits.read_bytes_per_s == 9e9
    assert limits.compute_flops_per_s == 7.0
    assert limits.launch_s == 1e-6


FLOAT = {"fma_f32", "gemm_f32", "dot_bf16", "tile_bf16", "gemm_bf16"}


@pytest.mark.parametrize(
    ("work", "names"),
    [
        ("linear:n=8,k=32,m=1,weight=bf16,act=float", FLOAT),
        ("linear:n=8,k=32,m=1,weight=int4g32,act=int8", {"dot_int8", "tile_int8", "gemm_int8"}),
        ("linear:n=8,k=32,m=1,weight=int4g32,act=float", FLOAT),
        ("attention:context=64,kv=f32", {"fma_f32", "gemm_f32"}),
        ("attention:context=64,kv=int8", FLOAT),
        (
            "step:model=tiny,batch=1,context=8,weight=f16,kv=int8,act=float",
            {"fma_f32", "gemm_f32", "tile_f16", "gemm_f16"},
        ),
    ],
)
def test_the_compute_ceiling_belongs_to_the_arithmetic(work, names):
    assert set(compute_ceilings(work)) == names


def test_device_class_and_settings_read_names():
    assert [device_class(b) for b in ("a", "a:cpu+c", "a:cuda:1+g")] == ["cpu", "cpu", "cuda:1"]
    assert settings("linear:n=8,k=32") == {"n": "8", "k": "32"}


def test_a_wrong_replicate_takes_all_times_away():
    rows = [case(), case(status="wrong", error=0.5, reason="error 0.5")]
    figures = line(rows)
    assert (figures["status"], figures["replicates"], figures["error"]) == ("wrong", 0, 0.5)
    numbers = (
        "time_s",
        "time_ci_s",
        "min_s",
        "p95_s",
        "achieved_bytes_per_s",
        "mbu",
        "mfu",
        "roofline",
        "verdict",
    )
    assert [figures[name] for name in numbers] == [None] * len(numbers)


def test_a_crashed_replicate_is_told_and_the_others_count():
    figures = line([case(samples=[1.0]), failed("crashed", "SIGSEGV"), case(samples=[3.0])])
    assert figures["status"] == "crashed"
    assert figures["reason"] == "1 of 3 replicates: SIGSEGV"
    assert (figures["time_s"], figures["replicates"]) == (2.0, 2)


def test_invalid_replicates_are_set_aside_while_others_are_left():
    rows = [case(samples=[1.0]), case(samples=[9.0], grade="invalid"), case(samples=[3.0], grade="contended")]
    figures = line(rows)
    assert (figures["time_s"], figures["replicates"], figures["replicates_aside"]) == (2.0, 2, 1)
    assert (figures["validity"], figures["validity_count"]) == ("contended", 1)
    alone = line([replace(rows[1], grade_reasons=["steal 9 %"])])
    assert (alone["time_s"], alone["validity"], alone["verdict"]) == (9.0, "invalid", "inconclusive")
    assert alone["validity_reasons"] == "steal 9 %"


def test_hot_time_stands_apart():
    assert line([case(samples=[1.0], hot_samples_s=[0.2, 0.3, 0.4])])["hot_time_s"] == 0.3


def test_a_working_set_within_the_cache_is_called_so():
    rows = [case(working_set_bytes=MACHINE["last_level_cache_bytes"]), ceiling("read", 11e9, "bytes/s")]
    assert line(rows)["verdict"] == "cache"


def test_one_line_for_each_run_backend_and_work():
    table = summarize(run_rows("run-a") + run_rows("run-b"))
    assert len(table) == 6
    assert list(table.columns) == list(COLUMNS)
    assert set(table.work) == {LINEAR, "linear:n=8,k=32"}
    assert table.time_s.dtype == float


def test_records_hold_no_nan():
    rows = [*run_rows(), failed("oom", backend="gamma:cpu")]
    text = json.dumps(records(summarize(rows)), allow_nan=False)
    assert json.loads(text)[-1]["time_s"] is None


def test_no_rows_make_an_empty_table():
    table = summarize([])
    assert list(table.columns) == list(COLUMNS)
    assert len(table) == 0


def test_usable_without_samples_is_empty():
    assert usable([failed("timeout")]) == []


def test_a_devices_own_clock_and_energy_stand_beside_the_wall_clock():
    rows = [ceiling("read", 2e12, "bytes/s", backend="alpha:cuda:0")]
    step = "step:model=tiny,batch=4,context=16,weight=bf16,kv=bf16,act=float"
    for replicate, energy_j in enumerate((30.0, 50.0, None)):
        telemetry = {"device_energy_j": energy_j}
        device = {"device_samples_s": [60e-6, 62e-6], "timed_launches": 1000, "telemetry": telemetry}
        common = {"replicate": replicate, "accelerator": {"cache_bytes": 50_000_000}, **device}
        rows.append(case("alpha:cuda:0+graph", samples=[80e-6], **common))
        rows.append(case("alpha:cuda", step, samples=[80e-6], **common))
    linear, step_line = records(summarize(rows))
    assert linear["time_s"] == 80e-6
    assert linear["device_time_s"] == pytest.approx(61e-6)
    assert linear["of_bound"] == pytest.approx(50 / 80)
    assert linear["device_of_bound"] == pytest.approx(50 / 61)
    assert (linear["energy_j"], linear["energy_per_token_j"]) == (pytest.approx(0.04), None)
    assert step_line["energy_per_token_j"] == pytest.approx(0.01)
    assert step_line["of_bound"] == linear["of_bound"], "cuda and cuda:0 are one device"


def test_a_row_names_the_ceiling_that_its_bytes_run_into():
    rows = [
        ceiling("read", 2e12, "bytes/s", backend="alpha:cuda:0"),
        ceiling("host_to_device_pinned", 5e10, "bytes/s", backend="alpha:cuda:0"),
        case("alpha:cuda:0+offload", samples=[2.1e-3], memory_ceiling="host_to_device_pinned"),
    ]
    (line,) = records(summarize(rows))
    assert (line["memory_ceiling"], line["read_ceiling_bytes_per_s"]) == ("host_to_device_pinned", 5e10)
    assert line["mbu"] == pytest.approx(2 / 2.1)
    assert (line["verdict"], line["verdict_reason"]) == ("memory", "95% of the host_to_device_pinned ceiling")


@pytest.mark.parametrize("batch", ["9" * 5000, "x", "-1", ""])
def test_a_batch_that_is_no_number_of_sequences_is_refused(batch):
    with pytest.raises(RowError, match="is not a number") as raised:
        Row.from_json(case("numba:cpu", f"step:model=tiny,batch={batch},context=8").to_json())
    assert len(str(raised.value)) < 400
