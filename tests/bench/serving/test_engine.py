"""Loads on engines that are started for them, with one that computes nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from null_engine import ENGINE
from rich.console import Console

from membound.backends.serving import UnknownEngine, engine_names, served_engines
from membound.bench.serving import self_check
from membound.bench.serving.connection import Limits
from membound.bench.serving.endpoint import Endpoint
from membound.bench.serving.engine import (
    FACTS,
    Engine,
    EngineOptions,
    engine_of,
    facts_of,
    longest_of,
    parse_options,
)
from membound.bench.serving.lengths import parse_lengths
from membound.bench.serving.load import Load
from membound.bench.serving.running import Measured, measure_load
from membound.bench.serving.schedule import LoadError
from membound.bench.serving.served import parse_served
from membound.results.store import load_rows

pytest.importorskip("uvloop")

SERVED = parse_served("step:model=tiny,weight=f32,layers=1")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_check, "CHECK_S", 0.1)
    monkeypatch.setattr(self_check, "TOKENS", 4)


def load(**more: Any) -> Load:
    usual: dict[str, Any] = {
        "users": (2,),
        "seconds": 0.5,
        "warm_s": 0.0,
        "drain_s": 2.0,
        "prompt": parse_lengths("6"),
        "output": parse_lengths("3"),
        "limits": Limits.within(5.0),
    }
    return Load(Endpoint("127.0.0.1", 0), **(usual | more))


def measured(folder: Path, replicates: int = 1, **options: str) -> Measured:
    engine = Engine(ENGINE, SERVED, sys.executable, EngineOptions(threads=1, options=options))
    return measure_load(
        load(), folder, "membound load", Console(quiet=True), Console(quiet=True), engine, replicates
    )


def test_each_process_is_a_replicate_and_its_facts_are_in_the_rows(tmp_path: Path) -> None:
    done = measured(tmp_path, replicates=2)
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
    done = measured(tmp_path, replicates=2, die="6")
    assert len(done.troubles) == 1
    assert "its log is" in done.troubles[0]
    (row,) = load_rows(done.path)
    assert row.status == "crashed"
    assert row.reason == "the server ended: exit status 3: RuntimeError: the engine is dead"


def test_a_server_that_does_not_start_leaves_no_run(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="null did not start"):
        measured(tmp_path, fail="")
    assert [path.suffix for path in tmp_path.iterdir()] == [".log"]


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


def test_options_are_the_engines_own() -> None:
    assert parse_options(["--max-num-seqs=8", "enforce-eager", "a_b=c=d"]) == {
        "max-num-seqs": "8",
        "enforce-eager": "",
        "a_b": "c=d",
    }
    for text in ("", "=3", "a b=3", "$x=1"):
        with pytest.raises(LoadError, match="is not NAME=VALUE"):
            parse_options([text])


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
