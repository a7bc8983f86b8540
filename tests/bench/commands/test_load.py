"""`membound load`, `show` and `compare` of its runs, as a user calls them."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from null_engine import ENGINE
from rows import case
from servers import bad_server, garbage, null_server, slow_loris

import membound
from membound.bench import cli
from membound.bench.serving import engine, point_rows, self_check
from membound.bench.serving.null_server import Script
from membound.bench.serving.truth import Truth
from membound.results.store import RunWriter, load_rows, new_run_path

pytest.importorskip("uvloop")

SECRET = "sk-planted-4711"
BRIEF = ["--seconds", "1", "--warm", "0.2"]
SHORT = [*BRIEF, "--prompt", "8", "--output", "4"]


@dataclass(frozen=True)
class Called:
    """What a command left."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


def called(*arguments: str) -> Called:
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        cli.main([*arguments])
    return Called(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", SECRET)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(self_check, "CHECK_S", 0.2)
    monkeypatch.setattr(self_check, "TOKENS", 4)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


def loaded(tmp_path: Path, url: str, *more: str) -> Called:
    return called("load", "--url", url, *SHORT, "--out", str(tmp_path), *more)


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files that nobody changes."""
    folder = tmp_path_factory.mktemp("two-runs")
    with pytest.MonkeyPatch.context() as patch, null_server(Script(0.02, 0.005)) as url:
        install(patch)
        for _ in range(2):
            assert loaded(folder, url, "--rate", "20").exit_code in (0, 1)
    return sorted(folder.glob("*.jsonl"))


def test_a_load_prints_its_table_and_keeps_its_rows(tmp_path: Path) -> None:
    with null_server(Script(0.02, 0.005)) as url:
        result = loaded(tmp_path, url, "--users", "2", "--slo", "ttft=2000", "--key-env", "A_KEY")
    assert "first token, from due" in result.stdout
    assert "goodput under ttft=2000" in result.stdout
    (path,) = tmp_path.glob("*.jsonl")
    (row,) = load_rows(path)
    assert row.status == "ok"
    assert row.config["client"]["null_server"]["chunks"] > 0
    assert "the client adds" in result.stdout
    assert SECRET not in result.output + path.read_text()
    assert max(map(len, result.stdout.splitlines()[1:-1])) <= 80


def test_json_is_all_of_standard_output(tmp_path: Path) -> None:
    with null_server(Script(0.02, 0.005)) as url:
        result = loaded(tmp_path, url, "--rate", "20", "--json")
    (record,) = json.loads(result.stdout)
    assert record["status"] == "ok"
    assert record["ttft_p50_s"] >= 0.02


def test_a_search_plays_points_until_it_has_a_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server refuses each third request, so that no rate keeps the level."""
    with null_server(Script(0.001, 0.001, fault="429", every=3)) as url:
        result = loaded(tmp_path, url, "--rate", "25", "--slo", "ttft=9000", "--search")
    assert result.exit_code == 1
    (path,) = tmp_path.glob("*.jsonl")
    assert [row.config["rate"] for row in load_rows(path)] == [25.0, 25.0, 12.5, 12.5]
    assert "no rate was found that keeps ttft=9000 twice; 12.5/s does not keep it" in " ".join(
        result.stdout.split()
    )


def test_stored_points_are_shown_compared_and_loaded(two_runs: list[Path]) -> None:
    shown = called("show", str(two_runs[0]))
    assert "first token, from due" in shown.stdout
    assert "×best" not in shown.stdout
    (record,) = json.loads(called("show", str(two_runs[0]), "--json").stdout)
    assert record["work"].startswith("serving:model=null,api=completions,rate=20")
    assert "| first token, from due |" in called("show", str(two_runs[0]), "--markdown").stdout
    a, b = map(str, two_runs)
    for option, words in (((), "first token, median"), (("--markdown",), "| first token, median |")):
        compared = called("compare", a, b, *option)
        assert compared.exit_code == 0, compared.output
        assert words in compared.stdout
    figures = {line["figure"]: line for line in json.loads(called("compare", a, b, "--json").stdout)["loads"]}
    assert figures["ttft_p50_s"]["ratio"] == pytest.approx(
        figures["ttft_p50_s"]["b"] / figures["ttft_p50_s"]["a"]
    )
    assert figures["ttft_p50_s"]["ratio_ci"] is None
    assert len(membound.load(two_runs)) == 0
    assert membound.load_points(two_runs)["ttft_p50_s"].min() >= 0.02
    assert set(membound.compare_points(a, b)["figure"]) >= {"ttft_p50_s", "output_tokens_per_s"}


@pytest.mark.filterwarnings("ignore:.* are the same run:UserWarning")
def test_runs_with_cases_and_points_show_both(two_runs: list[Path], tmp_path: Path) -> None:
    for name, run in zip(("mixed", "other"), two_runs, strict=True):
        with RunWriter(new_run_path(tmp_path / name, name)) as writer:
            for row in [*load_rows(run), case(samples=(0.01 + 0.001 * len(name),))]:
                row.run_id = name
                writer.append(row)
    mixed, other = str(tmp_path / "mixed"), str(tmp_path / "other")
    shown = called("show", mixed)
    assert shown.exit_code == 0, shown.output
    assert "first token, from due" in shown.stdout
    assert "×best" in shown.stdout
    assert len(json.loads(called("show", mixed, "--json").stdout)) == 2
    both = called("compare", mixed, other, "--force")
    assert both.exit_code == 0, both.output
    assert "B/A: time of B" in both.stdout
    assert "first token, median" in both.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rate", "0"], "is not a number above 0"),
        ([], "give one of --rate, --users and --trace"),
        (["--rate", "1", "--users", "1"], "give one of"),
        (["--rate", "1", "--slo", "p99=1"], "service level"),
        (["--rate", "1", "--pattern", "burst"], "pattern"),
        (["--rate", "1", "--prompt", "none"], "lengths"),
        (["--rate", "1", "--seconds", "0"], "--seconds"),
        (["--rate", "1", "--key-env", "NO_SUCH"], "no variable NO_SUCH"),
        (["--rate", "1", "--key-file", "/no/such"], "cannot be read"),
        (["--trace", "/no/such"], "cannot be read"),
        (["--rate", "1", "--search"], "--search needs --slo"),
        (["--rate", "1", "--engine", "vllm"], "give one of --url and --engine"),
        (["--rate", "1", "--replicates", "2"], "--replicates starts an --engine"),
        (["--rate", "1", "--steps"], "--steps measures its steps"),
        (["--rate", "1", "--reference", "no-such-model"], "unknown model"),
        (["--users", "1", "--slo", "ttft=500", "--search"], "--search needs --slo"),
        (["--rate", "1", "--seconds", "2", "--slo", "ttft=500", "--search"], "2 requests in its window"),
        (["--rate", "1", "--speed", "1"], "--speed has an effect only with --trace"),
        (["--rate", "1", "--think", "1"], "--think has an effect only with --users"),
        (["--users", "1", "--pattern", "poisson"], "--pattern has an effect only with --rate"),
        (["--trace", "/no/such", "--prompt", "8"], "--prompt has an effect only with --rate or --users"),
        (["--trace", "/no/such", "--output", "8"], "--output has an effect only with --rate or --users"),
        (["--rate", "1", "--threads", "1"], "--threads has an effect only with --engine"),
        (["--rate", "1", "--sequences", "4"], "--sequences has an effect only with --engine"),
        (["--rate", "1", "--engine-option", "a=b"], "--engine-option has an effect only with --engine"),
        (["--rate", "1", "--python", "python"], "--python has an effect only with --engine"),
        (["--rate", "1", "--ready", "9"], "--ready has an effect only with --engine"),
        (["--rate", "1", "--prompt", "8", "--shared-prefix", "9"], "longer than any --prompt, of 8 at most"),
        (["--rate", "1"], "cannot be reached"),
    ],
)
def test_bad_input_is_one_line_and_two(tmp_path: Path, arguments: list[str], words: str) -> None:
    result = called("load", "--url", "http://127.0.0.1:1", "--out", str(tmp_path), *arguments)
    assert result.exit_code == 2, result.output
    assert words in result.output
    assert "Traceback" not in result.output
    assert not list(tmp_path.glob("*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give one of --url and --engine"),
        (["--engine", "vllm"], "--engine needs --model"),
        (["--engine", "vlm", "--model", "tiny"], "no engine is called 'vlm'"),
        (["--engine", "vllm", "--model", "no-such-model"], "unknown model"),
        (["--engine", "vllm", "--model", "linear:n=4,k=4"], "a server's model is"),
        (["--engine", "vllm", "--model", "step:model=tiny,weight=int8"], "the engine takes weight="),
        (["--engine", "vllm", "--model", "tiny"], "membound env create vllm"),
        (["--engine", "vllm", "--model", "tiny", "--python", "/no/such"], "cannot be started"),
        (["--engine", "vllm", "--model", "tiny", "--reference", "tiny"], "are for --url"),
        (["--engine", "vllm", "--model", "tiny", "--engine-option", "=1"], "is not NAME=VALUE"),
        (["--engine", "vllm", "--model", "tiny", "--threads", "100000"], "threads=100000 must be"),
        (["--engine", "vllm", "--model", "tiny", "--ready", "0"], "--ready 0 must be"),
        (["--engine", "vllm", "--engine", "vllm", "--model", "tiny"], "call one that comes twice vllm#2"),
        (["--engine", "vllm", "--model", "tiny", "--engine-option", "a:b=1"], "is not NAME=VALUE"),
        (
            ["--engine", "vllm", "--engine", "vllm#2", "--model", "tiny", "--search", "--slo", "ttft=9"],
            "--search is of one server",
        ),
    ],
)
def test_an_engine_that_cannot_be_started_is_one_line_and_two(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    result = called("load", *arguments, "--rate", "1", "--out", str(tmp_path))
    assert result.exit_code == 2, result.output
    assert words in " ".join(result.output.split())
    assert not list(tmp_path.glob("*.jsonl*"))


@pytest.mark.parametrize(
    ("reference", "status"), [("step:model=tiny,weight=f32,layers=1", "wrong"), ("", "ok")]
)
def test_a_server_is_compared_with_the_model_that_it_should_be(
    tmp_path: Path, reference: str, status: str
) -> None:
    more = ["--reference", reference] if reference else []
    with null_server(Script(0.002, 0.001)) as url:
        result = loaded(tmp_path, url, "--users", "1", "--json", *more)
    assert result.stdout, result.stderr
    (record,) = json.loads(result.stdout)
    assert record["status"] == status
    assert (record["truth_error"] is None) == (status == "ok")
    assert result.exit_code == (1 if reference or record["validity"] == "invalid" else 0)


def test_an_engine_is_started_measured_and_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "served_engine", lambda name: ENGINE)
    options = ["--engine", "null", "--model", "step:model=tiny,weight=f32", "--python", sys.executable]
    result = called("load", *options, "--users", "1", *SHORT, "--threads", "1", "--out", str(tmp_path))
    assert "starting null with tiny" in result.stdout
    assert "left nothing behind" in result.stdout
    (path,) = tmp_path.glob("*.jsonl")
    (row,) = load_rows(path)
    assert (row.backend, row.status) == ("null", "wrong")  # it says the same token always
    assert "max_num_seqs 3" in " ".join(result.stdout.split())
    assert result.exit_code == 1


@pytest.mark.slow
def test_engines_take_turns_and_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "served_engine", lambda name: ENGINE)
    monkeypatch.setattr(point_rows, "truth_of", lambda *rest: Truth())  # it says the same token always
    for name in ("client_reasons", "added_reasons"):  # a busy machine would leave rounds out
        monkeypatch.setattr(point_rows, name, lambda *rest: [])
    engines = ["--engine", "null", "--engine", "null#2", "--model", "step:model=tiny,weight=f32"]
    options = [*engines, "--python", sys.executable, "--threads", "1", "--replicates", "3"]
    result = called("load", *options, "--users", "1", *SHORT, "--out", str(tmp_path))
    assert "A: null, run" in result.stdout, result.output
    assert "median of the rounds in which both took turns" in " ".join(result.stdout.split())
    (path,) = tmp_path.glob("*.jsonl")
    compared = called("compare", str(path), "--backends", "null", "null#2", "--json")
    figures = {line["figure"]: line for line in json.loads(compared.stdout)["loads"]}
    assert (figures["ttft_p50_s"]["rounds"], figures["ttft_p50_s"]["backend_b"]) == (3, "null#2")
    table = membound.compare_points(path, backends=("null", "null#2"))
    assert set(table["figure"]) == {*figures}
    missing = called("compare", str(path), "--backends", "null", "other")
    assert missing.exit_code == 2
    assert "no point of load of 'other'" in missing.output
    assert "null, process 1: serving:model=tiny" in " ".join(called("show", str(path)).stdout.split())


@pytest.mark.parametrize("talk", [garbage, slow_loris])
def test_an_endpoint_that_is_none_ends_within_its_limit(tmp_path: Path, talk: Any) -> None:
    with bad_server(talk) as url:
        result = loaded(tmp_path, url, "--users", "1", "--timeout", "0.5", "--key-env", "A_KEY")
    assert result.exit_code == 2
    assert "gives no answer" in result.output
    assert SECRET not in result.output


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("0,5,2", "-3,9,3"), "line 3"),
        (("5,5,2", "4,9,3"), "its time is before"),
        (("0,5,0",), "no request is due"),
        (("0,5,2", "9000,1,1"), "no request is due"),
    ],
)
def test_traces_that_cannot_be_played(tmp_path: Path, lines: tuple[str, ...], words: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("\n".join(["Timestamp,Request tokens,Response tokens", *lines]) + "\n")
    result = called(
        "load", "--url", "http://127.0.0.1:1", *BRIEF, "--trace", str(path), "--out", str(tmp_path)
    )
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())
