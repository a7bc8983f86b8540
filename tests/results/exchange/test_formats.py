"""Every importer on a file of its tool: `golden.json` has what comes out, and the tools' own figures say whether it is right."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import membound
from membound.results.exchange.formats import FORMATS, read_foreign
from membound.results.exchange.request_metrics import METRICS
from membound.results.roofline import settings
from membound.results.row import Row, RowError
from membound.results.stats import records, summarize

FILES = Path(__file__).with_name("files")
GOLDEN: dict[str, Any] = json.loads(Path(__file__).with_name("golden.json").read_text())
NAMES = sorted(path.name for path in FILES.iterdir() if path.suffix != ".md")


def seen(row: Row) -> list[Any]:
    """What `golden.json` has of a row: who, what, how it ended, how many samples with which median or value, bytes, FLOPs."""
    middle = float(np.median(row.samples_s)) if row.samples_s else row.value
    rounded = None if middle is None else float(f"{middle:.9g}")
    return [row.backend, row.work, row.status, len(row.samples_s), rounded, row.bytes, row.flops]


def rows_of(name: str) -> list[Row]:
    return read_foreign(FILES / name).rows


def by_metric(name: str) -> dict[str, Row]:
    return {settings(row.work)["metric"]: row for row in rows_of(name)}


@pytest.mark.parametrize("name", NAMES)
def test_a_file_gives_the_rows_that_were_checked_by_hand(name):
    found = read_foreign(FILES / name)
    assert found.format.name == GOLDEN[name]["format"]
    assert [seen(row) for row in found.rows] == GOLDEN[name]["rows"]
    assert found.contradictions == GOLDEN[name]["contradictions"]


def test_every_format_has_a_file_whose_making_is_told():
    assert {GOLDEN[name]["format"] for name in NAMES} == {one.name for one in FORMATS}
    told = (FILES / "README.md").read_text()
    assert not [name for name in NAMES if f"`{name}`" not in told]
    assert sum(path.stat().st_size for path in FILES.iterdir()) <= 300_000


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_recognised_by_its_content_alone(name, tmp_path):
    for other in ("results.txt", "results.json", "results"):
        path = Path(shutil.copy(FILES / name, tmp_path / other))
        assert read_foreign(path).format.name == GOLDEN[name]["format"]
        assert len(membound.load(path)) >= len({row.work for row in rows_of(name) if row.kind == "case"})


@pytest.mark.parametrize("name", NAMES)
def test_no_two_formats_take_the_same_file(name):
    from membound.results.exchange.document import read_document

    document = read_document(FILES / name)
    assert [one.name for one in FORMATS if one.recognises(document)] == [GOLDEN[name]["format"]]


# The tools' own figures


def test_vllm_serve_rows_have_the_statistics_that_the_tool_prints():
    told, rows = json.loads((FILES / "vllm-serve.json").read_text()), by_metric("vllm-serve.json")
    for short, metric in (
        ("ttft", "time_to_first_token"),
        ("tpot", "time_per_output_token"),
        ("itl", "inter_token_latency"),
        ("e2el", "request_latency"),
    ):
        samples = np.asarray(rows[metric].samples_s) * 1e3
        assert samples.mean() == pytest.approx(told[f"mean_{short}_ms"])
        assert np.median(samples) == pytest.approx(told[f"median_{short}_ms"])
        assert np.percentile(samples, 99) == pytest.approx(told[f"p99_{short}_ms"])
    assert 1 / rows["request_interval"].samples_s[0] == pytest.approx(told["request_throughput"])
    assert 1 / rows["output_token_interval"].samples_s[0] == pytest.approx(told["output_throughput"])


def test_requests_that_failed_leave_no_times():
    rows = by_metric("vllm-serve-429.json")
    assert len(rows["time_to_first_token"].samples_s) == 8
    assert rows["time_to_first_token"].config["failed"] == 4
    assert min(rows["time_to_first_token"].samples_s) == pytest.approx(0.11036959499961085)


def test_guidellm_rows_have_the_statistics_of_the_report():
    metrics = json.loads((FILES / "guidellm.json").read_text())["benchmarks"][0]["metrics"]
    rows = by_metric("guidellm.json")
    for name, metric, scale in (
        ("time_to_first_token_ms", "time_to_first_token", 1e-3),
        ("inter_token_latency_ms", "time_per_output_token", 1e-3),
        ("request_latency", "request_latency", 1.0),
        ("time_per_output_token_ms", "request_latency_per_token", 1e-3),
    ):
        assert np.mean(rows[metric].samples_s) == pytest.approx(metrics[name]["successful"]["mean"] * scale)


def test_aiperfs_summary_its_lines_and_its_csv_agree():
    summary, lines, table = (by_metric(f"aiperf.{end}") for end in ("json", "jsonl", "csv"))
    for metric in ("time_to_first_token", "time_per_output_token", "request_latency"):
        assert np.median(lines[metric].samples_s) == pytest.approx(summary[metric].samples_s[0])
        assert np.mean(lines[metric].samples_s) == pytest.approx(summary[metric].config["reported"]["mean"])
        assert table[metric].samples_s[0] == pytest.approx(summary[metric].samples_s[0], rel=1e-3)


def test_the_same_load_has_the_same_work_whichever_tool_measured_it():
    assert (
        by_metric("vllm-serve.json")["request_latency"].work
        == by_metric("guidellm.json")["request_latency"].work
    )
    assert by_metric("aiperf.json")["time_to_first_token"].work == (
        "request:metric=time_to_first_token,model=small,input=64,output=32,concurrency=1"
    )
    named = {
        settings(row.work)["metric"] for name in NAMES for row in rows_of(name) if row.work[:8] == "request:"
    }
    assert named <= set(METRICS)


def test_google_benchmarks_bytes_are_those_of_the_source():
    rows = rows_of("google-benchmark.json")
    assert {row.bytes for row in rows if row.work == "custom:name=BM_copy/16384"} == {2 * 16384}
    assert {row.bytes for row in rows if row.work == "custom:name=BM_copy/1048576"} == {2 << 20}
    failed = [row for row in rows if row.status != "ok"]
    assert {(row.status, row.reason) for row in failed} == {("error", "no such device")}
    (line,) = [x for x in records(summarize(rows)) if x["work"] == "custom:name=BM_copy/16384"]
    assert (line["replicates"], line["time_ci_s"] is None) == (3, False)


def test_babelstreams_rates_and_ceilings_are_those_that_it_prints():
    ceilings = {row.work: row.value for row in rows_of("babelstream.csv") if row.kind == "ceiling"}
    assert ceilings["read"] == pytest.approx(8194.16e6, rel=1e-5)
    assert ceilings["triad"] == pytest.approx(7455.45e6, rel=1e-5)
    in_mib = {row.work: row.value for row in rows_of("babelstream-mib.csv") if row.kind == "ceiling"}
    assert in_mib["read"] == pytest.approx(5170 * 2**20, rel=1e-4)


def test_mlperfs_summary_and_detail_give_the_same_row():
    (short,), (long,) = rows_of("mlperf-summary.txt"), rows_of("mlperf-detail.txt")
    assert (short.work, short.samples_s, short.config["reported"]) == (
        long.work,
        long.samples_s,
        long.config["reported"],
    )
    assert short.config["reported"]["p99"] == pytest.approx(4440761e-9)


def test_a_run_that_mlperf_calls_invalid_is_graded_so(tmp_path):
    text = (FILES / "mlperf-summary.txt").read_text()
    text = text.replace("Result is : VALID", "Result is : INVALID").replace(
        "Min duration satisfied : Yes", "Min duration satisfied : NO"
    )
    path = tmp_path / "summary.txt"
    path.write_text(text)
    (row,) = read_foreign(path).rows
    assert (row.grade, row.grade_reasons) == ("invalid", ["min duration satisfied"])


def test_a_long_line_takes_no_longer_than_short_ones(tmp_path):
    """Of spaces alone: to look for a key between all of them would take hours."""
    text = (FILES / "mlperf-summary.txt").read_text()
    path = tmp_path / "summary.txt"
    path.write_text(f"{text}{' ' * 100_000}\n: no key\n")
    assert read_foreign(path).rows[0].work == rows_of("mlperf-summary.txt")[0].work


def test_a_step_of_llama_bench_has_the_bytes_of_its_weights():
    step, prompt, _ = rows_of("llama-bench.jsonl")
    assert (step.work, step.bytes, step.flops) == (
        "llama:test=tg32,model=llama 7B Q4_0",
        3825065984,
        2 * 6738415616,
    )
    assert step.samples_s == pytest.approx([0.2, 0.198, 0.202])
    assert (step.backend, step.threads, step.versions) == ("llama.cpp:cpu", 2, {"llama.cpp": "d006858"})
    assert prompt.bytes == 2 * 3825065984  # 600 tokens in batches of 512: the weights pass twice
    assert prompt.flops == 600 * 2 * 6738415616


def test_what_a_sweep_of_llama_bench_varied_is_part_of_the_work():
    assert [settings(row.work).get("n_batch") for row in rows_of("llama-bench-old.csv")] == ["2048", "512"]
    assert {row.backend for row in rows_of("llama-bench-old.csv")} == {"llama.cpp:unknown"}


def test_a_gigabyte_of_ggml_is_a_gibibyte():
    added, multiplied, refused = rows_of("backend-ops.sql")
    assert added.bytes == 3 * 4096 * 4
    assert multiplied.flops == 2 * 4096 * 14336
    assert (refused.status, refused.reason) == ("unsupported", "not supported")


def test_nvbench_bytes_are_two_arrays_of_its_elements():
    copied, skipped = rows_of("nvbench.json")
    assert copied.bytes == 2 * 4 * 2**24
    assert (copied.device, skipped.status) == ("NVIDIA H100 80GB HBM3", "unsupported")


# Contradictions and what is missing


def test_what_a_file_contradicts_is_stored_with_the_row_and_told():
    found = read_foreign(FILES / "llama-bench.jsonl")
    assert found.rows[2].config["contradictions"] == ["avg_ts is 9, but the tokens over avg_ns are 5"]
    assert (
        "of device_to_device_memcpy_read_ce is 700"
        in read_foreign(FILES / "nvbandwidth.json").contradictions[0]
    )
    assert "24 left within 0.0403 s" in read_foreign(FILES / "guidellm-burst.json").contradictions[0]


def test_a_client_that_saw_no_time_pass_has_none():
    row = by_metric("aiperf-starved.json")["time_per_output_token"]
    assert (row.status, row.samples_s) == ("error", [])
    assert row.reason == "its p50 is 0 s: whoever measured was too busy to see the time pass"
    assert by_metric("aiperf-starved.json")["request_latency"].status == "ok"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"mean_ttft_ms": 9.0}, "the mean is reported as 0.009 s, that of the 10 samples is 0.178518 s"),
        ({"median_e2el_ms": 9e9}, "median_e2el_ms is 9e+09, but p50_e2el_ms gives 721.985"),
        ({"p99_itl_ms": 1.0}, "p95 (0.0892772 s) is above p99 (0.001 s)"),
        ({"request_throughput": 8.0}, "request_throughput is 8, but completed over duration gives 0.841992"),
        ({"failed": 3}, "10 requests were asked for, 10 completed and 3 failed"),
        ({"total_output_tokens": 999}, "total_output_tokens is 999, but the sum over requests gives 320"),
    ],
)
def test_each_kind_of_contradiction_is_found(tmp_path, change, text):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(json.loads((FILES / "vllm-serve.json").read_text()) | change))
    assert any(text in told for told in read_foreign(path).contradictions)


def test_a_unit_is_never_guessed(tmp_path):
    found = json.loads((FILES / "aiperf.json").read_text())
    for unit in (None, "fortnights", ""):
        found["time_to_first_token"]["unit"] = unit
        (tmp_path / "x.json").write_text(json.dumps(found))
        with pytest.raises(RowError, match="no unit of time; known are s, ms, us, ns"):
            read_foreign(tmp_path / "x.json")
    (refused,) = [row for row in rows_of("nvbandwidth.json") if row.work == "of_another_unit"]
    assert (refused.status, refused.value) == ("error", None)


def test_a_device_that_no_file_names_stays_unknown():
    for name in ("vllm-serve.json", "guidellm.json", "aiperf.json", "babelstream.csv"):
        assert {(row.backend.partition(":")[2], row.device, row.machine == {}) for row in rows_of(name)} == {
            ("unknown", "", True)
        }


@pytest.mark.parametrize("name", ["vllm-serve.json", "pytest-benchmark.json"])
def test_two_files_of_one_name_are_two_runs(tmp_path, name):
    found = json.loads((FILES / name).read_text())
    ids = []
    for folder, label in (("a", "one"), ("b", "two")):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "result.json"
        path.write_text(json.dumps(found | {"label": label}))
        ids.append(read_foreign(path).run_id)
        assert {row.run_id for row in read_foreign(path).rows} == {ids[-1]}
    assert ids[0] != ids[1]


def llama_test(tmp_path, **fields):
    lines = (FILES / "llama-bench-real.jsonl").read_text().splitlines()
    path = tmp_path / "changed.jsonl"
    path.write_text(json.dumps({**json.loads(lines[1]), **fields}) + "\n")
    return read_foreign(path).contradictions


def test_a_rate_of_llama_bench_is_held_to_its_samples(tmp_path):
    """8 tokens in 1.9, 62 and 27 ms: the mean of the rates is six times the rate of the mean, and right."""
    (row,) = [json.loads(line) for line in (FILES / "llama-bench-real.jsonl").read_text().splitlines()[1:]]
    assert row["avg_ts"] > 5 * 8e9 / row["avg_ns"]
    assert llama_test(tmp_path) == []
    assert len(llama_test(tmp_path, avg_ts=1.1 * row["avg_ts"])) == 1
    assert len(llama_test(tmp_path, avg_ts=0.9 * 8e9 / row["avg_ns"])) == 1
    without = {"samples_ns": [], "samples_ts": []}
    assert llama_test(tmp_path, **without) == []
    assert len(llama_test(tmp_path, **without, stddev_ns=0)) == 1
