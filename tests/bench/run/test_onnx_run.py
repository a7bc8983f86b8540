"""Runs of a user's own ONNX file: its row, and what is refused before any worker starts."""

from __future__ import annotations

import shutil
from pathlib import Path

import local_workers
import numpy as np
import onnx_decoders
import pytest
from small_runs import cases, executed, planned

from membound.bench import cli
from membound.bench.measure.check import same_bits
from membound.bench.measure.failures import WrongAnswerError
from membound.bench.planning.plan import Options, make_plan
from membound.bench.planning.suites import PlanError
from membound.kernels.onnx_step import EXAMPLE, OnnxStep
from membound.results.stats import records, summarize


def test_a_file_is_measured_like_any_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local_workers.shrink(monkeypatch)
    local_workers.install(monkeypatch)
    path = onnx_decoders.saved(onnx_decoders.plain_model(), tmp_path / "m.onnx")
    work = OnnxStep(str(path), 2, 30)
    plan = planned(["onnxruntime:cpu", "numpy:cpu"], [work.spec], replicates=2)
    rows, _ = executed(tmp_path, plan)
    measured = [row for row in cases(rows) if row.backend == "onnxruntime:cpu"]
    assert [row.status for row in measured] == ["ok", "ok"], measured[0].reason
    assert {row.work for row in measured} == {work.spec}
    assert {row.bytes for row in measured} == {work.traffic.total_bytes}
    assert {row.flops for row in measured} == {work.flops}
    assert max(row.error or 0.0 for row in measured) < 1e-5
    assert all(row.config["graph"] == "file" for row in measured)
    assert len(measured[0].config["greedy_tokens"]) == 2
    assert measured[0].stored_bytes > work.traffic.weights_bytes
    refused = [row for row in cases(rows) if row.backend == "numpy:cpu"]
    assert {row.status for row in refused} == {"unsupported"}
    assert "an ONNX file runs on ONNX Runtime" in refused[0].reason
    told = records(summarize(rows))
    assert {line["status"] for line in told} == {"ok", "unsupported"}


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert not printed.out
    (line,) = printed.err.strip().splitlines()
    return line


def test_a_bad_file_ends_before_any_worker_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "membound.bench.protocol.process.Worker.__init__", lambda *_, **__: pytest.fail("a worker")
    )
    monkeypatch.setenv("COLUMNS", "1000")
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(EXAMPLE.read_bytes()[:5000])
    assert "is cut short or no ONNX file" in refused(["run", f"onnx:file={cut}"], capsys)
    assert "is no file that is there" in refused(["run", f"onnx:file={tmp_path}/gone.onnx"], capsys)
    assert "onnx: file missing; keys: file, batch" in refused(["run", "onnx:context=5"], capsys)
    assert "unknown key 'layers'" in refused(["run", f"onnx:file={EXAMPLE},layers=2"], capsys)
    assert "context=0 must be a whole number from 1" in refused(
        ["run", f"onnx:file={EXAMPLE},context=0"], capsys
    )


def test_a_file_with_nan_does_not_fit_a_plan_and_a_large_one_no_memory(tmp_path: Path) -> None:
    model = onnx_decoders.plain_model()
    table = next(one for one in model.graph.initializer if one.name == "table")
    values = np.frombuffer(table.raw_data, np.float32).copy()
    values[5] = np.nan
    table.raw_data = values.tobytes()
    path = onnx_decoders.saved(model, tmp_path / "m.onnx")
    with pytest.raises(PlanError, match="the tensor 'table' holds NaN"):
        make_plan(["onnxruntime:cpu"], [f"onnx:file={path},context=9"], Options(), 10**9)
    with pytest.raises(PlanError, match="does not fit memory: it needs"):
        make_plan(["onnxruntime:cpu"], [f"onnx:file={EXAMPLE},context=9"], Options(), 10**4)


def test_two_copies_of_a_file_are_one_work(tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        shutil.copy(EXAMPLE, tmp_path / name)
    specs = [f"onnx:file={tmp_path / name},context=9" for name in ("a.onnx", "b.onnx")]
    plan = make_plan(["onnxruntime:cpu"], specs, Options(), 10**9)
    assert {len(cell.works) for cell in plan.cells} == {1}
    assert plan.notes == (f"{tmp_path}/b.onnx and {tmp_path}/a.onnx are the same file: it is measured once",)


def test_launches_that_differ_in_their_bits_are_wrong() -> None:
    first = same_bits(np.float32([1, 2]), "")
    assert same_bits(np.float32([1, 2]), first) == first
    with pytest.raises(WrongAnswerError, match="gave outputs of different bits"):
        same_bits(np.float32([1, np.nextafter(np.float32(2), np.float32(3))]), first)
