"""The step of an engine alone beside a point of load: which stored case it is, and what it makes of a token's time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from load_points import WORK
from load_points import row as point
from rows import MACHINE, case

from membound.results.report.points import shown_points
from membound.results.report.token_table import token_table
from membound.results.row import Row, RowError
from membound.results.serving.engine_step import stored_steps, with_stored_steps
from membound.results.serving.roofline import roofline_of
from membound.results.serving.table import point_records
from membound.results.store import RunWriter
from membound.results.views.serving import roofline_lines

SPEC = "step:model=tiny,batch={batch},context={context},weight=f32,kv=f32,act=float,cache=prompt"


def served(**more: Any) -> Row:
    """A point of two sequences with 100 tokens each; a token takes 20 ms, 18 ms of them the engine's."""
    one = point(2, 0.020)
    one.config["roofline"] = one.config["roofline"] | {"step_backend": "alpha:cpu+tokens"}
    one.config["engine"] = {"versions": {"alpha": "1.0"}}
    one.machine, one.threads = dict(MACHINE), 2
    return replace(one, **more)


def step(batch: int = 2, context: int = 100, **more: Any) -> Row:
    usual = {"samples": (0.015,), "versions": {"alpha": "1.0", "numpy": "2"}}
    spec = SPEC.format(batch=batch, context=context)
    return case("alpha:cpu+tokens", spec, **(usual | more))


def test_the_step_alone_is_a_part_of_a_tokens_time() -> None:
    found = roofline_of(served(), [step(run_id="a"), step(run_id="a", samples=(0.017,), replicate=1)])
    assert found is not None
    assert found.step is not None
    assert (found.step.seconds, found.step.processes, found.step.run_id) == (pytest.approx(0.016), 2, "a")
    bytes_s = found.bytes_s
    assert bytes_s is not None
    assert found.split["step"] == pytest.approx(0.016 - bytes_s)
    assert found.split["engine"] == pytest.approx(0.018 - 0.016)
    assert sum(part for part in found.split.values() if part) == pytest.approx(0.020)


def test_a_step_that_took_longer_than_under_load_leaves_nothing_for_the_rest() -> None:
    found = roofline_of(served(), [step(samples=(0.019,))])
    assert found is not None
    assert found.split["engine"] == 0


def test_its_own_run_counts_before_the_latest_and_the_nearest_context_before_others() -> None:
    own = step(run_id="a-run", samples=(0.011,))
    later = step(run_id="z", samples=(0.012,))
    latest = step(run_id="z", context=104, samples=(0.013,))
    for rows, seconds in (([own, later, latest], 0.011), ([later, latest], 0.012), ([latest], 0.013)):
        found = roofline_of(served(), rows)
        assert found is not None
        assert found.step is not None
        assert found.step.seconds == seconds


@pytest.mark.parametrize(
    "other",
    [
        step(batch=1),
        step(context=10_000),
        step(threads=1),
        step(status="wrong"),
        step(machine=MACHINE | {"cpu": "Other CPU"}),
        step(versions={"alpha": "2.0"}),
        replace(step(), work=SPEC.format(batch=2, context=100).replace("tiny", "large")),
        replace(step(), work=SPEC.format(batch=2, context=100).replace("f32", "bf16")),
        replace(step(), work="step:model=tiny,batch=2"),
        replace(step(), work=SPEC.format(batch=2, context="1" * 5000)),
        replace(step(), work=SPEC.format(batch=2, context=100).replace("batch=2", "batch")),
        replace(step(), backend="alpha:cpu"),
        replace(step(), kind="ceiling", value=1.0),
    ],
    ids=str,
)
def test_what_is_another_step_is_not_taken_for_it(other: Row) -> None:
    found = roofline_of(served(), [other])
    assert found is not None
    assert found.step is None
    assert found.split["step"] is None


def test_a_step_of_no_bytes_has_none() -> None:
    one = served()
    one.config["roofline"] |= {"step": dict.fromkeys(one.config["roofline"]["step"], 0.0)}
    found = roofline_of(one, [step()])
    assert found is not None
    assert found.step is None


def test_where_there_is_none_it_is_said_what_measures_it() -> None:
    (record,) = point_records([served()])
    spec = SPEC.format(batch=2, context=100)
    command = f"membound run {spec} --backends alpha:cpu+tokens --threads 2"
    assert (record["step_s"], record["step_how"]) == (None, command)
    assert any(command in line and "--steps" in line for line in roofline_lines(served()))
    (known,) = point_records([served(), step()])
    assert (known["step_s"], known["step_run"], known["step_work"]) == (0.015, "run-a", spec)
    assert known["step_how"] is None
    assert f"the engine's step alone: 15 ms ({spec}, run run-a)" in [*roofline_lines(served(), [step()])]
    (foreign,) = point_records([point(2, 0.02)])
    assert foreign["step_how"] is None


def test_the_page_has_the_parts_and_what_measures_the_missing_one() -> None:
    html = "".join(token_table(shown_points([served()])))
    assert "not measured: membound run step:model=tiny,batch=2,context=100" in html
    assert "its step alone" in html
    html = "".join(token_table(shown_points([served(), step()])))
    assert "not measured" not in html
    assert "15 ms" not in html  # it stands without the bytes
    unknown = point(2, 0.02, roofline={})
    assert "".join(token_table(shown_points([unknown]))) == ""


def test_steps_of_other_runs_are_found_in_the_folder(tmp_path: Path) -> None:
    for name, rows in {"one": [step(run_id="one")], "two": [case(run_id="two"), served()]}.items():
        with RunWriter(tmp_path / f"{name}.jsonl") as writer:
            for row in rows:
                writer.append(row)
    (tmp_path / "torn.jsonl").write_text('{"kind":"case","work":"step:')
    assert [row.run_id for row in stored_steps(tmp_path)] == ["one"]
    near = with_stored_steps([served()], tmp_path)
    assert [row.kind for row in near] == ["serving", "case"]
    assert with_stored_steps([served(), step(run_id="one")], tmp_path)[2:] == []
    assert with_stored_steps([point(2, 0.02)], tmp_path)[1:] == []
    assert [*stored_steps(tmp_path / "none")] == []


def test_a_backend_that_is_no_text_is_refused() -> None:
    bad = served()
    bad.config["roofline"]["step_backend"] = 3
    with pytest.raises(RowError, match="step_backend='3'"):
        Row.from_json(bad.to_json())


def test_the_spec_that_is_asked_for_is_the_point_s_own() -> None:
    assert SPEC.format(batch=1, context=1024) == WORK
