"""Stored plans: what is damaged, changed or absurd is refused in one line, whatever its hash says."""

from __future__ import annotations

import json
from math import inf
from pathlib import Path
from typing import Any

import pytest
from flips import unnoticed
from small_runs import planned

from membound.bench.planning.suites import PlanError
from membound.bench.run.resume import find_cut, keep_plan
from membound.bench.run.stored_plan import UnfitPlanError, plan_hash, plan_of, text_of

WRONG: list[tuple[str, Any, str]] = [
    ("cells", None, "cells=None is not a list of objects"),
    ("cells", [1], "cells=[1] is not a list of objects"),
    ("cells", [{"backend": "numba:cpu", "replicate": 0}], "no field 'works'"),
    ("cells", [{"backend": 5, "replicate": 0, "works": []}], "backend=5 is not text"),
    ("cells", [{"backend": "b", "replicate": -1, "works": []}], "replicate=-1"),
    ("cells", [{"backend": "b", "replicate": 0, "works": "linear"}], "works='linear' is not a list of texts"),
    ("cells", [{"backend": "b", "replicate": 0, "works": [3]}], "works=[3] is not a list of texts"),
    ("pace", {}, "no field 'least'"),
    ("pace", {"rounds": 1.5, "seconds": 1.0, "least": 1}, "rounds=1.5 is not a whole number"),
    ("pace", {"rounds": 0, "seconds": 1.0, "least": 0}, "pace="),
    ("pace", [], "pace=[] is not"),
    ("threads", "two", "threads='two'"),
    ("threads", 10**9, "threads=1000000000 of "),
    ("threads", 0, "threads=0 of "),
    ("rigor", "rigorous", "rigor='rigorous'"),
    ("out", 5, "out=5 is not text"),
    ("pythons", {"numba": 5}, "pythons={'numba': 5}"),
    ("notes", "a note", "notes='a note'"),
    ("seed", True, "seed=True"),
    ("memory_bytes", 10**40, "memory_bytes=1000"),
    ("time_limit_s", "long", "time_limit_s='long'"),
]


def test_a_plan_comes_back_as_it_was(tmp_path: Path) -> None:
    plan = planned(out=tmp_path, pythons={"numba": "/python"}, time_limit_s=12.5)
    assert plan.pace.limit_s == inf
    assert plan_of(text_of(plan)) == plan


@pytest.mark.parametrize(("name", "value", "says"), WRONG, ids=[f"{n}={v!r}"[:40] for n, v, _ in WRONG])
def test_one_that_could_not_be_is_refused_though_its_hash_fits(name: str, value: Any, says: str) -> None:
    stored = json.loads(text_of(planned()))
    stored["plan"][name] = value
    stored["hash"] = plan_hash(stored["plan"])
    with pytest.raises(UnfitPlanError) as raised:
        plan_of(json.dumps(stored))
    assert str(raised.value).startswith("is none that membound writes (")
    assert says in str(raised.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", "5", '{"plan":[],"membound":"1","hash":""}', "[" * 10**6])
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(UnfitPlanError):
        plan_of(text)


def test_every_flipped_bit_of_a_plan_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "20260101T000000-cpu-1234.jsonl"
    keep_plan(planned(out=tmp_path, replicates=1), path)
    (tmp_path / f"{path.name}.partial").touch()
    assert (
        unnoticed(
            path.with_name(f"{path.name}.plan"), PlanError, lambda: find_cut("latest", tmp_path), step=5
        )
        == []
    )
