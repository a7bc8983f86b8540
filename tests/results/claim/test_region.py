"""The map and the paragraph: what bounds a step, measured or predicted, and what a claim came to."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import worlds
from claims import STEP, whole_claim
from worlds import PEAK, READ

from membound.bench.claim.map_grid import BATCHES, CONTEXTS, FORMATS, points_for, region_points
from membound.kernels.work import Step, parse
from membound.results.claim.conclusion import paragraph, standing
from membound.results.claim.experiments import load_experiments
from membound.results.claim.judge import judge_claim
from membound.results.claim.region import predicted, region_of
from membound.results.wording import duration

REGISTER = load_experiments()
CLAIM = whole_claim()
FINDINGS = judge_claim(CLAIM.observations, REGISTER)
CELLS = region_of(CLAIM, FINDINGS, points_for(CLAIM))


def test_the_grid_has_every_batch_context_and_format_with_the_bytes_of_the_step():
    points = region_points(["llama-3.2-1b"])
    assert len(points) == len(BATCHES) * len(CONTEXTS) * len(FORMATS)
    for point in points:
        step = Step(
            "llama-3.2-1b", point.batch, point.context, *point.format.replace("cache ", "").split(", ")
        )
        assert (point.work, point.bytes, point.flops) == (step.spec, step.traffic.total_bytes, step.flops)


def test_steps_that_were_measured_are_on_the_map_and_so_is_their_model():
    points = points_for(CLAIM)
    assert STEP in [point.work for point in points]
    assert {point.model for point in points} == {"llama-3-8b", "tiny"}
    assert len({point.work for point in points}) == len(points)


def test_a_step_of_a_folder_that_is_gone_and_other_kinds_are_left_out():
    assert region_points([], ["linear:n=8,k=32", "step:model=models/gone,context=8"]) == []
    (point,) = region_points([], ["step:model=tiny,context=8,layers=1"])
    assert point.model == "tiny, 1 layers"


@pytest.mark.parametrize(
    ("memory_s", "compute_s", "overhead_s", "footprint", "bound"),
    [
        (2.0, 1.0, 1.0, 500, "memory"),
        (2.0, 1.0, 1.0, 50, "cache"),
        (1.0, 2.0, 1.0, 50, "compute"),
        (1.0, 1.0, 2.0, 50, "overhead"),
        (None, 1.0, 2.0, 50, "inconclusive"),
    ],
)
def test_a_prediction_is_the_longest_term(memory_s, compute_s, overhead_s, footprint, bound):
    terms = {"memory": memory_s, "compute": compute_s, "overhead": overhead_s}
    assert predicted(terms, footprint, cache_bytes=100) == bound


def test_cells_are_predicted_from_the_ceilings_and_the_fitted_overhead():
    t0 = next(f for f in FINDINGS if f.experiment == 7 and f.backend == "alpha:cpu").figure("t0").value
    assert t0 == pytest.approx(worlds.LAUNCH_S, rel=0.5)
    of = [c for c in CELLS if c.backend == "alpha:cpu" and c.point.model == "llama-3-8b"]
    assert {c.how for c in of} == {"predicted"}
    for cell in of:
        assert cell.memory_s == pytest.approx(cell.point.bytes / READ)
        peak = 4 * PEAK if cell.point.format.endswith("int8") else PEAK
        assert cell.compute_s == pytest.approx(cell.point.flops / peak)
        assert cell.overhead_s == pytest.approx(t0 * cell.point.operations)
    bounds = {(c.point.batch, c.point.context): c.bound for c in of if "bf16" in c.point.format}
    assert bounds[1, 512] == "memory"
    assert bounds[256, 512] == "compute"
    assert bounds[256, 32768] == "memory"


def test_a_measured_step_is_judged_by_its_time():
    (cell,) = [c for c in CELLS if c.how == "measured"]
    assert (cell.backend, cell.point.work) == ("gamma:cpu", STEP)
    assert cell.time_s == pytest.approx(5e-3)
    assert cell.bound == "overhead"


def test_a_step_that_captured_launches_make_faster_counts_with_its_faster_time():
    slow = [one for one in CLAIM.observations if one.work == STEP and one.arm == "plain"]
    assert slow
    fast = [replace(one, arm="graph", time_s=one.seconds / 2) for one in slow]
    both = replace(CLAIM, observations=(*CLAIM.observations, *fast))
    (cell,) = [c for c in region_of(both, FINDINGS, points_for(CLAIM)) if c.how == "measured"]
    assert cell.time_s == pytest.approx(2.5e-3)


def test_a_measured_step_is_compared_with_the_ceilings_of_its_moments():
    (plain,) = [one for one in CLAIM.observations if one.work == STEP]
    near = parse(STEP).traffic.total_bytes / (0.95 * plain.seconds)
    moments = [
        replace(plain, replicate=at, read_bytes_per_s=read, compute_flops_per_s=PEAK / 2)
        for at, read in enumerate((0.1 * near, 5 * near, near))
    ]
    slower = replace(plain, arm="graph", time_s=2 * plain.seconds, read_bytes_per_s=7e9)
    others = [one for one in CLAIM.observations if one.work != STEP]
    there = replace(CLAIM, observations=(*others, *moments, slower))
    (cell,) = [c for c in region_of(there, FINDINGS, points_for(CLAIM)) if c.how == "measured"]
    assert cell.memory_s == pytest.approx(cell.point.bytes / near)
    assert cell.compute_s == pytest.approx(cell.point.flops / (PEAK / 2))
    assert cell.bound == "memory"
    unknown = replace(plain, read_bytes_per_s=None, compute_flops_per_s=None)
    of_the_start = replace(CLAIM, observations=(*others, unknown))
    (cell,) = [c for c in region_of(of_the_start, FINDINGS, points_for(CLAIM)) if c.how == "measured"]
    assert cell.memory_s == pytest.approx(cell.point.bytes / READ)


def test_without_ceilings_the_map_says_nothing():
    bare = replace(CLAIM, ceilings=())
    assert {c.bound for c in region_of(bare, FINDINGS, region_points())} == {"inconclusive"}


def test_the_claim_holds_where_direct_experiments_say_so_and_fails_where_one_refutes_it():
    assert standing(FINDINGS, "alpha:cpu") == "holds"
    assert standing(FINDINGS, "beta:cpu") == "fails"
    assert standing(FINDINGS, "gamma:cpu") == "not decided"
    void = [replace(f, verdict="instrument broken") for f in FINDINGS]
    assert standing(void, "alpha:cpu") == "void"
    one = [f for f in FINDINGS if f.experiment in (1, 5)]
    assert standing(one, "alpha:cpu") == "not decided"


def test_formats_alone_refute_nothing():
    only = [replace(f, arm="kv_format", verdict="refuted") for f in FINDINGS if f.experiment == 2]
    assert standing(only, "alpha:cpu") == "not decided"


def test_the_paragraph_says_where_it_holds_where_it_fails_and_by_how_much():
    text = paragraph(CLAIM, FINDINGS, CELLS)
    start = "On Test CPU with 2 threads, the verdicts over all experiments, backends and operations are: "
    assert text.startswith(start)
    counted = text.removeprefix(start).partition(".")[0]
    assert sum(map(int, re.findall(r"\d+", counted))) == len(FINDINGS)
    supported = sum(f.verdict == "supported" for f in FINDINGS)
    assert f"{supported} supported, 2 refuted, " in text
    assert "broken" not in text
    assert "the claim holds on alpha:cpu." in text
    assert "As worded, the claim fails on beta:cpu." in text
    assert "Refuted: free compute (beta:cpu, linear_f32): FLOPs are not free: time rises by " in text
    slope = next(f for f in FINDINGS if (f.experiment, f.backend) == (2, "alpha:cpu")).figures[0]
    assert (
        f"d ln t / d ln bytes is {slope.value:.2f} ({slope.low:.2f} to {slope.high:.2f}) on alpha:cpu" in text
    )
    assert f"of {len(CELLS) - 1} predicted." in text
    t0 = next(f for f in FINDINGS if f.experiment == 7 and f.backend == "alpha:cpu").figure("t0").value
    assert f"Overhead per operation is {duration(t0)} on alpha:cpu." in text
    assert "gamma:cpu" not in text
    assert "Others used the machine" not in text
    assert "\n" not in text
    assert "nan" not in text


def test_the_paragraph_says_how_much_was_disturbed():
    timed = [one for one in CLAIM.observations if one.status == "ok"]
    loud = [replace(one, validity="contended") for one in timed[:7]] + timed[7:]
    text = paragraph(replace(CLAIM, observations=tuple(loud)), FINDINGS, CELLS)
    assert f"Others used the machine during 7 of {len(timed)} observations." in text


def test_the_paragraph_of_nothing_says_so():
    text = paragraph(replace(CLAIM, observations=()), judge_claim([], REGISTER), [])
    assert text == (
        "On Test CPU with 2 threads, the verdicts over all experiments, backends and operations are: 13 not run."
    )
    assert "holds" not in text
