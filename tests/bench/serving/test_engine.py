"""Loads on engines that are started for them, with one that computes nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from null_engine import ENGINE
from rich.console import Console
from small_loads import SERVED, load

from membound.backends.serving import UnknownEngine, engine_names, served_engines
from membound.bench.serving import point_rows, self_check
from membound.bench.serving.engine import (
    FACTS,
    Engine,
    EngineOptions,
    engine_of,
    facts_of,
    longest_of,
)
from membound.bench.serving.lengths import parse_lengths
from membound.bench.serving.running import Measured, Rounds, measure_load
from membound.bench.serving.schedule import LoadError
from membound.results.serving.compare import compare_engines, engines_in_turn
from membound.results.store import load_rows

pytest.importorskip("uvloop")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_check, "CHECK_S", 0.1)
    monkeypatch.setattr(self_check, "TOKENS", 4)


def engine(name: str = "", **options: str) -> Engine:
    return Engine(ENGINE, SERVED, sys.executable, EngineOptions(threads=1, options=options), name)


def measured(folder: Path, engines: list[Engine], count: int = 1) -> Measured:
    quiet = Console(quiet=True)
    return measure_load(load(), folder, "membound load", quiet, quiet, engines, Rounds(count))


def test_each_process_is_a_replicate_and_its_facts_are_in_the_rows(tmp_path: Path) -> None:
    done = measured(tmp_path, [engine()], 2)
    assert done.troubles == []
    rows = load_rows(done.path)
    assert [(row.status, row.backend, row.replicate, row.threads) for row in rows] == [
        ("ok", "null", 0, 1),
        ("ok", "null", 1, 1),
    ]
    assert len({row.device for row in rows}) == 2
    for row in rows:
        assert set(row.config["engine"]) == set(FACTS)
        assert (row.config["engine"]["max_num_seqs"], row.config["engine"]["block_size"]) == (3, "unknown")
        assert row.versions["null"] == "1"
        assert "model=tiny" in row.work
    assert done.path.with_suffix(".log").read_text().count("serving tiny") == 2


def test_a_server_that_dies_under_load_is_a_row_and_the_end(tmp_path: Path) -> None:
    done = measured(tmp_path, [engine(die="6")], 2)
    assert len(done.troubles) == 1
    assert "its log is" in done.troubles[0]
    (row,) = load_rows(done.path)
    assert row.status == "crashed"
    assert row.reason == "the server ended: exit status 3: RuntimeError: the engine is dead"


def test_a_server_that_does_not_start_leaves_no_run(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="null did not start"):
        measured(tmp_path, [engine(fail="")])
    assert [path.suffix for path in tmp_path.iterdir()] == [".log"]


def test_engines_take_turns_and_their_rows_are_joined_by_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("client_reasons", "added_reasons"):  # a busy machine would leave rounds out
        monkeypatch.setattr(point_rows, name, lambda *rest: [])
    done = measured(tmp_path, [engine("null"), engine("null#2")], 3)
    assert done.troubles == []
    rows = load_rows(done.path)
    assert sorted((row.replicate, row.backend) for row in rows) == [
        (number, name) for number in range(3) for name in ("null", "null#2")
    ]
    assert [row.replicate for row in rows] == [0, 0, 1, 1, 2, 2]
    assert [row.started_at for row in rows] == sorted(row.started_at for row in rows)
    assert engines_in_turn(rows) == ("null", "null#2")
    table = compare_engines(rows, "null", "null#2")
    line = table[table.figure == "ttft_p50_s"].iloc[0]
    assert (line["rounds"], line.backend_a, line.backend_b) == (3, "null", "null#2")
    assert line.ratio_ci[0] <= line.ratio <= line.ratio_ci[1]


def test_one_that_does_not_start_is_a_row_and_the_other_goes_on(tmp_path: Path) -> None:
    done = measured(tmp_path, [engine("null", fail=""), engine("null#2")], 2)
    assert len(done.troubles) == 1
    assert "null did not start: exit status 1: ValueError: no such model" in done.troubles[0]
    rows = load_rows(done.path)
    told = sorted((row.backend, row.replicate, row.status) for row in rows)
    assert told == [("null", 0, "crashed"), ("null#2", 0, "ok"), ("null#2", 1, "ok")]
    assert {row.work for row in rows} == {rows[0].work}
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".jsonl", ".log"]


def test_a_second_start_that_fails_loses_nothing(tmp_path: Path) -> None:
    """It starts once, and not again."""
    done = measured(tmp_path, [engine(once=str(tmp_path / "started"))], 3)
    assert len(done.troubles) == 1
    rows = load_rows(done.path)
    assert [(row.replicate, row.status) for row in rows] == [(0, "ok"), (1, "crashed")]
    assert rows[1].reason.startswith("null did not start: exit status 1: ValueError: not again")
    assert not list(tmp_path.glob("*.partial"))


def test_the_last_words_of_a_server_are_its_own(tmp_path: Path) -> None:
    """The one before it has written to the same log."""
    done = measured(tmp_path, [engine("null", fail=""), engine("null#2", silent="")])
    reasons = {row.backend: row.reason for row in load_rows(done.path)}
    assert "no such model" in reasons["null"]
    assert reasons["null#2"].startswith("null#2 did not start: exit status 4; its log")


def test_engines_are_known_by_name_and_say_how_they_are_started() -> None:
    assert {"llamacpp", "vllm"} <= {*engine_names()}
    for engine in served_engines():
        assert engine.metrics.prefix.endswith(":")
        assert engine.program.startswith("membound.backends.")
    with pytest.raises(UnknownEngine, match=r"no engine is called 'vlm'; known: .*llamacpp"):
        engine_of("vlm", SERVED, EngineOptions())


@pytest.mark.parametrize("name", ["llamacpp", "vllm"])
def test_an_engine_without_its_environment_says_what_makes_it(name: str) -> None:
    with pytest.raises(LoadError, match=f"no environment to run {name} in .*: membound env create"):
        engine_of(name, SERVED, EngineOptions())
    assert engine_of(name, SERVED, EngineOptions(python=sys.executable)).python == sys.executable


def test_an_engine_is_made_as_long_as_the_load_is() -> None:
    assert longest_of(load()) == 65
    assert longest_of(load(prompt=parse_lengths("100"), output=parse_lengths("20"))) == 121
    drawn = longest_of(load(prompt=parse_lengths("uniform:100..200")))
    assert 1.5 * 190 < drawn <= 1.5 * 203 + 1
    rates = load(users=(), rates=(50.0,), prompt=parse_lengths("uniform:100..200"))
    assert 190 < longest_of(rates) <= 204


def test_what_nobody_says_is_unknown() -> None:
    assert set(facts_of({}, {}).values()) == {"unknown"}
    told = facts_of({"threads": 2}, {"block_size": "16", "num_gpu_blocks": "4"})
    assert (told["threads"], told["block_size"], told["graphs"]) == (2, "16", "unknown")
