"""`membound import` and `export`: what they write, what they say, and what they refuse in one line with nothing written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from rows import MACHINE, case, ceiling, run_rows, write

from membound.bench import cli
from membound.bench.planning.foreign_work import sized
from membound.kernels.work import parse
from membound.results.exchange import document
from membound.results.exchange.formats import read_foreign
from membound.results.stats import records, summarize
from membound.results.store import load_rows

FILES = Path(__file__).parents[2] / "results/exchange/files"


@pytest.fixture
def called(capsys, tmp_path, monkeypatch):
    """Run the command in an empty folder; returns (status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(a) for a in arguments])
        return ended.value.code, *capsys.readouterr()

    return call


def refused(told, text):
    """The command ended with 2 and one line that has this text; nothing is left in the folder of runs."""
    status, out, err = told
    assert (status, out) == (2, "")
    assert err.startswith("membound: ")
    assert err.count("\n") == 1
    assert text in err
    assert list(Path("results").rglob("*")) in ([], [Path("results/runs")])


def test_an_imported_file_is_a_run_like_any_other(called):
    status, out, err = called("import", FILES / "vllm-serve.json", FILES / "guidellm-burst.json")
    assert (status, err) == (0, "")
    first, second = sorted(Path("results/runs").iterdir())
    assert f"vllm-bench-serve, 6 rows in {second}" in out
    assert "contradiction: 1.2 requests a second were asked for, but 24 left within 0.0403 s" in out
    assert "not in the file: the device, bytes" in out
    assert load_rows(second) == read_foreign(FILES / "vllm-serve.json").rows
    assert called("show", second)[1].startswith(f"run {second.name.removesuffix('.jsonl')}, unknown machine")
    told = json.loads(called("compare", second, first, "--by", "backend", "--json")[1] or "null")
    assert told is None or told["pairs"]


def test_two_tools_on_the_same_load_are_compared(called):
    called("import", FILES / "vllm-serve.json", FILES / "guidellm.json")
    status, out, _ = called("compare", "vllm-serve", "guidellm", "--by", "backend", "--json")
    told = json.loads(out)
    assert status == 0
    ratios = {x["work"].partition(",")[0]: x["time_ratio"] for x in told["pairs"]}
    assert ratios["request:metric=request_latency"] == pytest.approx(1.7, rel=0.5)
    assert {(x["backend_a"], x["backend_b"]) for x in told["pairs"]} == {
        ("vllm-bench:unknown", "guidellm:unknown")
    }


def test_bytes_become_shares_of_the_ceilings_of_a_named_run(called):
    limits = [ceiling("read", 2e10, "bytes/s", backend="cpu", run_id="limits"), case(run_id="limits")]
    write(Path("results/runs/limits.jsonl"), limits)
    status, out, err = called("import", FILES / "llama-bench.jsonl", "--ceilings", "limits", "--json")
    assert (status, err) == (0, "")
    (told,) = json.loads(out)
    rows = load_rows(told["run"])
    assert [row.config["of_run"] for row in rows if row.kind == "ceiling"] == ["limits"]
    lines = {x["work"]: x for x in records(summarize(rows))}
    assert lines["llama:test=tg32,model=llama 7B Q4_0"]["mbu"] == pytest.approx(3825065984 / 0.2 / 2e10)


def test_a_run_of_several_devices_is_no_limit_for_a_file_that_names_none(called):
    limits = [ceiling("read", 2e10, "bytes/s"), ceiling("read", 1e12, "bytes/s", backend="a:cuda:0")]
    write(Path("limits.jsonl"), limits)
    told = called("import", FILES / "babelstream.csv", "--ceilings", "limits.jsonl")
    refused(told, "limits.jsonl has ceilings of cpu, cuda:0, the file is of a device that it does not name")
    write(Path("none.jsonl"), [case()])
    refused(
        called("import", FILES / "babelstream.csv", "--ceilings", "none.jsonl"),
        "none.jsonl holds no ceilings",
    )


def test_a_model_that_is_known_here_gets_its_bytes():
    rows = {row.work.split(",")[0]: sized(row) for row in read_foreign(FILES / "optimum.json").rows}
    step = rows["model:phase=decode"]
    assert step.work == parse("step:model=llama-3.2-1b,batch=1,context=144,weight=bf16,kv=bf16").spec
    assert step.bytes == parse(step.work).traffic.total_bytes
    assert step.samples_s == pytest.approx([1.00 / 31, 1.01 / 31, 1.005 / 31])
    assert rows["model:phase=per_token"].samples_s == [0.033, 0.032, 0.034, 0.033]
    assert rows["model:phase=prefill"].flops == parse("prefill:model=llama-3.2-1b,tokens=128").flops
    assert rows["model:phase=generate"].bytes == 0
    assert all(sized(row) == row for row in read_foreign(FILES / "optimum-report.json").rows)


def test_every_file_is_read_before_the_first_is_written(called):
    Path("bad.json").write_text("{}", encoding="utf-8")
    refused(called("import", FILES / "vllm-serve.json", "bad.json"), "bad.json: it has none of the formats")
    assert list(Path().rglob("*.jsonl*")) == []


def test_the_same_file_again_is_refused(called):
    assert called("import", FILES / "aiperf.json")[0] == 0
    status, out, err = called("import", FILES / "aiperf.json")
    assert (status, out) == (2, "")
    assert "is there already" in err


def test_a_run_is_exported_by_the_ending_of_the_name(called):
    write(Path("results/runs/a.jsonl"), run_rows())
    assert called("export", "a", "out.csv")[:2] == (0, "out.csv: csv, 10 rows\n")
    assert json.loads(called("export", "a", "b.json", "--format", "bencher", "--json")[1]) == {
        "file": "b.json",
        "format": "bencher",
        "rows": 10,
    }
    assert called("export", "a", "out.csv")[0] == 2
    assert called("export", "a", "out.csv", "--force")[0] == 0
    assert "give --format" in called("export", "a", "c.json")[2]
    assert "no run 'b'" in called("export", "b", "d.csv")[2]
    assert "cannot be written" in called("export", "a", "nowhere/d.csv")[2]


# Bad input


def vllm(**change):
    return json.dumps(json.loads((FILES / "vllm-serve.json").read_text()) | change)


BAD = {
    "empty": ("", "is empty"),
    "blank": (" \n\n", "is empty"),
    "foreign": ('{"hello": [1, 2]}', "it has none of the formats that can be read: vllm-bench-serve, "),
    "text": ("hello world\n", "it has none of the formats that can be read"),
    "truncated": (vllm()[:-300], "it is not JSON: "),
    "a list of nothing": ("[]", "it has none of the formats"),
    "NaN": (vllm(mean_ttft_ms=float("nan")), "mean_ttft_ms is nan, which is no time"),
    "negative": (vllm(duration=-3.0), "duration is -3.0, which is no time"),
    "1e999": (
        vllm().replace('"duration": 11.876596039000106', '"duration": 1e999'),
        "duration is inf, which is no time",
    ),
    "a text for a time": (vllm(duration="soon"), "duration is soon, which is no time"),
    "another type": (
        vllm(ttfts=[{}], itls=[[]], output_lens=[1], errors=[""], latencies=[1]),
        "which is no time",
    ),
    "lists that differ": (vllm(ttfts=[0.1]), "its lists of requests differ in length"),
    "two formats": (vllm() + "\n" + (FILES / "genai-perf.json").read_text(), "it is not JSON: Extra data"),
    "a key twice": (vllm()[:-1] + ', "duration": 1}', "the key 'duration' stands twice"),
    "nested": ("[" * 100_000, "it is nested too deeply"),
    "csv and json": ((FILES / "babelstream.csv").read_text() + vllm(), "cells under a header of 8"),
    "ragged": (
        "build_commit,model_type,n_prompt,n_gen,avg_ns,stddev_ns,avg_ts\na,b\n",
        "line 2: 2 cells under a header of 7",
    ),
    "columns": (",".join(f"c{i}" for i in range(1_000_000)) + "\n", "it has none of the formats"),
    "sql": (
        "CREATE TABLE llama_bench (x);\nDROP TABLE llama_bench;",
        "its SQL cannot be read: not authorized",
    ),
    "files by sql": (
        "CREATE TABLE llama_bench (x);\nATTACH 'y.db' AS y;",
        "its SQL cannot be read: not authorized",
    ),
    "no result": (json.dumps({"nvbandwidth": {"testcases": []}}), "and holds no result"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("command", ["import", "show"])
def test_bad_content_is_refused_in_one_line(called, name, command):
    text, told = BAD[name]
    path = Path("results.json")
    path.write_text(text, encoding="utf-8")
    refused(called(command, path), told)


def test_what_is_no_text_in_utf8_is_refused(called):
    Path("a.json").write_bytes(vllm().encode("utf-16"))
    refused(called("import", "a.json"), "a.json is not text in UTF-8 (byte 0); save it as UTF-8")
    Path("b.json").write_bytes(vllm(model_id="\xe9").encode("latin-1").replace(b"\\u00e9", b"\xe9"))
    refused(called("import", "b.json"), "is not text in UTF-8")
    Path("c.json").write_bytes(b"\xef\xbb\xbf" + vllm().encode())
    assert called("import", "c.json")[0] == 0


def test_what_is_no_file_is_refused(called):
    Path("folder").mkdir()
    refused(called("import", "folder"), "folder is no file")
    os.mkfifo("pipe")
    refused(called("import", "pipe"), "pipe is no file")
    Path("link").symlink_to("nothing")
    refused(called("import", "link"), "link is no file")
    refused(called("import", "nowhere.json"), "no such file: nowhere.json")
    refused(called("import", "x" * 300), "x" * 20)
    write(Path("own.jsonl"), [case(machine=MACHINE)])
    refused(called("import", "own.jsonl"), "own.jsonl holds rows of membound already")
    Path("named_so.jsonl").write_bytes(b"\xff\xfe garbage\n")
    refused(called("import", "named_so.jsonl"), "named_so.jsonl is not text in UTF-8 (byte 0)")
    Path("named_so.jsonl").write_text("{}\n", encoding="utf-8")
    refused(called("import", "named_so.jsonl"), "it has none of the formats that can be read")


def test_a_file_of_a_gigabyte_is_refused_before_it_is_read(called):
    with Path("big.json").open("wb") as file:
        file.truncate(1 << 30)
    refused(called("import", "big.json"), "big.json has 1.1 GB: files of other tools are read up to 256 MiB")
    assert document.MOST_BYTES == 256 << 20


def test_a_folder_that_cannot_be_written_is_refused(called):
    Path("file").write_text("", encoding="utf-8")
    status, out, err = called("import", FILES / "aiperf.json", "--out", "file/runs")
    assert (status, out) == (2, "")
    assert "results folder file/runs cannot be made: Not a directory" in err


@contextmanager
def as_anyone():
    """Whoever runs the tests, unless that is root, who may read and write everywhere: then nobody."""
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize(
    "line", ["export a.jsonl {}/a.csv", "export a.jsonl {}/a.db", "import other.json --out {}"]
)
def test_what_must_not_be_written_is_refused(called, tmp_path, line):
    write(Path("a.jsonl"), run_rows())
    shutil.copy(FILES / "aiperf.json", "other.json")
    Path("open").mkdir()
    assert called(*line.format("open").split())[0] == 0  # which imports whatever nobody may not
    Path("closed").mkdir(mode=0o555)
    tmp_path.chmod(0o755)
    with as_anyone():
        status, out, err = called(*line.format("closed").split())
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "Permission denied" in err or "nothing can be written into" in err
    assert list(Path("closed").iterdir()) == []


@pytest.mark.parametrize(
    "line", ["show {}", "compare {} b.jsonl", "import {}", "report {}", "export {} a.csv"]
)
@pytest.mark.parametrize("name", ["a.jsonl", "other.json"])
def test_what_must_not_be_read_is_refused(called, tmp_path, line, name):
    write(Path("a.jsonl"), run_rows())
    shutil.copy(FILES / "aiperf.json", "other.json")
    write(Path("b.jsonl"), run_rows("run-b"))
    called(*line.format(name).split())  # which imports whatever nobody may not
    Path("a.csv").unlink(missing_ok=True)
    Path(name).chmod(0)
    tmp_path.chmod(0o777)
    with as_anyone():
        status, out, err = called(*line.format(name).split())
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"membound: {name}")
    assert err.endswith(": Permission denied\n")
    assert not Path("a.csv").exists()


@pytest.mark.parametrize("bytes_left", [1, 300])
def test_a_disk_that_is_full_leaves_no_part_of_a_run(tmp_path, bytes_left):
    """The limit of a file's size fails a write half way, as a full disk does."""
    command = ["-m", "membound", "import", str(FILES / "aiperf.json")]
    limited = ["prlimit", f"--fsize={bytes_left}", sys.executable, "-B", *command]
    done = subprocess.run(limited, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot be written: File too large" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list((tmp_path / "results/runs").iterdir()) == []


def test_damaged_tables_of_ours_are_refused(called):
    write(Path("results/runs/a.jsonl"), run_rows())
    for ending in ("parquet", "sqlite"):
        assert called("export", "a", f"a.{ending}")[0] == 0
        raw = Path(f"a.{ending}").read_bytes()
        Path(f"cut.{ending}").write_bytes(raw[: len(raw) // 2])
        status, out, err = called("show", f"cut.{ending}")
        assert (status, out, err.count("\n")) == (2, "", 1)
    shutil.rmtree("results")
