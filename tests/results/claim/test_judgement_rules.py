"""The judge where there is little to judge: missing doses, failures, disturbed processes, a broken control."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import worlds
from observations import seen
from worlds import World

from membound.results.claim.dose_table import counted, panel_of
from membound.results.claim.experiments import load_experiments
from membound.results.claim.finding import VERDICTS, Figure
from membound.results.claim.judge import judge_claim
from membound.results.claim.region import fitted_launch_s
from membound.results.views.claim import figure_text

REGISTER = load_experiments()
WORLD = World(processes=4)


def judged(observations, **values):
    return judge_claim(observations, REGISTER, **({"only": [0]} | values))


def test_what_was_not_measured_is_not_run():
    found = judged([], only=[])
    assert [f.experiment for f in found] == list(range(1, 14))
    assert {f.verdict for f in found} == {"not run"}
    assert [f.experiment for f in judged([], only=[4])] == [4]


def test_a_failure_is_not_run_with_its_reason():
    (found,) = judged([seen(None, status="unsupported", reason="no bfloat16")])
    assert (found.verdict, found.sentence) == ("not run", "Not run: unsupported: no bfloat16.")


def test_what_no_time_was_left_for_is_not_run_and_a_failure_says_more():
    late = seen(None, status="skipped", reason="no time left", replicate=2)
    (found,) = judged([late])
    assert (found.verdict, found.sentence) == ("not run", "Not run: no time left.")
    (found,) = judged([late, seen(None, status="crashed", reason="SIGSEGV")])
    assert (found.verdict, found.sentence) == ("not run", "Not run: crashed: SIGSEGV.")


def test_a_wrong_answer_takes_the_verdict_away():
    good = worlds.free_compute_in(WORLD, 1)
    bad = replace(good[0], status="wrong", reason="error 3 above 0.01", time_s=None)
    (found,) = judged([*good, bad])
    assert (found.verdict, found.sentence) == ("not run", "Not run: wrong: error 3 above 0.01.")


def test_a_crash_costs_its_process_or_if_too_few_are_left_its_dose():
    whole = worlds.free_compute_in(WORLD, 1)
    one = [o if (o.replicate, o.factors["k"]) != (2, 8) else crashed(o) for o in whole]
    panel = panel_of(counted(one), lambda o: o.number("k"))
    assert panel.complete(3).processes == (0, 1, 3)
    assert len(panel.complete(3).doses) == 10
    assert panel.complete(4).processes == (0, 1, 2, 3)
    assert 8 not in panel.complete(4).doses
    assert judged(one)[0].verdict == "supported"
    two = [o if o.replicate > 1 or o.factors["k"] != 8 else crashed(o) for o in whole]
    assert judged(two)[0].verdict == "supported"


def test_too_few_processes_decide_nothing():
    (found,) = judged([o for o in worlds.free_compute_in(WORLD, 1) if o.replicate < 2])
    assert found.verdict == "inconclusive"
    assert found.sentence == "Not decided: 2 of 3 processes measured every dose."


def crashed(observation):
    return replace(observation, status="crashed", reason="SIGKILL", time_s=None, samples_s=[])


@pytest.mark.parametrize(
    ("kept", "sentence"),
    [
        (lambda k: k > 0, "k = 0 was not measured"),
        (lambda k: k in (0, 16, 32, 48), "no k up to 50% of the ridge, which is at k = 22.0"),
        (lambda k: k < 20, "no k beyond the ridge, which is at k = 22.0"),
        (lambda k: k in (0, 8, 32), "3 of 4 doses were measured"),
    ],
)
def test_missing_doses_are_named(kept, sentence):
    some = [o for o in worlds.free_compute_in(WORLD, 1) if kept(o.factors["k"])]
    (found,) = judged(some)
    assert (found.verdict, found.sentence) == ("inconclusive", f"Not decided: {sentence}.")


def test_doses_that_do_not_count_are_told_from_those_that_were_not_measured():
    """Of 8, 16, 32 and 64 experts the peak leaves two well below the ridge."""
    slow = [
        replace(o, compute_flops_per_s=202e6 / (0.5 * 24 * 3.15e6 / o.read_bytes_per_s))
        for o in worlds.expert_dose_in(WORLD, 1)
    ]
    (found,) = judged(slow)
    assert found.sentence == "Not decided: 2 of 3 doses lie far enough below the ridge."


def test_ceilings_that_never_meet_are_said_so():
    """Of experts, as many queries bring as many bytes."""
    (found,) = judged(worlds.expert_queries_in(WORLD, 1))
    assert found.sentence.endswith("the ceilings meet nowhere.")
    assert figure_text(found.figure("queries at which the ceilings meet")) == "none"
    (dense,) = judged(worlds.dense_queries_in(WORLD, 1))
    assert re.fullmatch(r"queries = [\d.]+", figure_text(dense.figure("queries at which the ceilings meet")))


def test_without_ceilings_nothing_is_decided():
    bare = [replace(o, compute_flops_per_s=None) for o in worlds.flop_dose_in(WORLD, 1)]
    (found,) = judged(bare)
    assert found.sentence == "Not decided: no ceiling of memory or of the arithmetic was measured."


@pytest.mark.parametrize("world", [worlds.flop_dose_in, worlds.attention_knee_in, worlds.counterexamples_in])
def test_observations_that_computed_nothing_decide_nothing(world):
    (found,) = judged([replace(o, flops=0) for o in world(WORLD, 1)])
    assert (found.verdict, found.sentence) == (
        "inconclusive",
        "Not decided: an observation computed nothing.",
    )


def test_a_dose_that_computes_no_more_is_none():
    (found,) = judged(
        [replace(o, flops=10**12) if o.factors["k"] == 0 else o for o in worlds.free_compute_in(WORLD, 1)]
    )
    assert (found.verdict, found.sentence) == (
        "inconclusive",
        "Not decided: more multiply-adds an element are not more FLOPs.",
    )


def test_a_missing_factor_is_named():
    (found,) = judged([replace(o, factors={}) for o in worlds.flop_dose_in(WORLD, 1)])
    assert found.verdict == "inconclusive"
    assert "factor m is None" in found.sentence


def test_disturbed_processes_are_left_out_if_others_are_left_and_decide_nothing_otherwise():
    whole = worlds.byte_dose_in(WORLD, 1)
    slow = replace(whole[0], time_s=9.0, replicate=9, validity="invalid")
    (found,) = judged([*whole, slow])
    assert (found.verdict, found.processes, found.disturbed) == ("supported", 4, 0)
    (found,) = judged([replace(o, validity="invalid") for o in whole])
    assert found.verdict == "inconclusive"
    assert found.sentence.startswith("Not decided: 24 of 24 observations were disturbed")
    assert found.figure("d ln t / d ln bytes").value > 0.9
    (found,) = judged([replace(o, validity="contended") for o in whole])
    assert (found.verdict, found.disturbed) == ("supported", 24)


def test_a_rate_that_was_measured_beside_a_dose_makes_no_dose_of_its_own():
    pair = [
        seen(1.0, factors={"duty": 1.0, "stolen_bytes_per_s": 3e9}, validity="invalid"),
        seen(1.0, factors={"duty": 1.0, "stolen_bytes_per_s": 4e9}, replicate=1),
    ]
    assert counted(pair) == pair[1:]


def test_a_broken_control_takes_every_other_verdict_of_that_backend():
    broken = worlds.residency_in(WORLD, 1, 0.0)
    other = [replace(o, backend="beta:cpu") for o in worlds.byte_dose_in(WORLD, 1)]
    found = judged([*broken, *worlds.byte_dose_in(WORLD, 1), *other])
    verdicts = {(f.experiment, f.backend): f.verdict for f in found}
    assert verdicts == {
        (2, "alpha:cpu"): "instrument broken",
        (2, "beta:cpu"): "supported",
        (5, "alpha:cpu"): "instrument broken",
    }
    assert "It would have been: supported" in found[0].sentence
    assert set(verdicts.values()) <= set(VERDICTS)


def test_one_sound_control_is_enough():
    broken = worlds.residency_in(WORLD, 1, 0.0)
    sound = [replace(o, arm="attention") for o in worlds.residency_in(WORLD, 1, 1.0)]
    found = judged([*broken, *sound, *worlds.byte_dose_in(WORLD, 1)])
    assert found[0].verdict == "supported"


def test_arms_are_judged_apart_and_victims_of_theft_by_work():
    linear = worlds.free_compute_in(WORLD, 1)
    attention = [replace(o, arm="attention_f32") for o in linear]
    assert [f.arm for f in judged([*linear, *attention])] == ["linear_f32", "attention_f32"]
    theft = worlds.theft_in(WORLD, 1, 0.5, 0.0)
    other = [replace(o, work="attention:context=8192") for o in theft]
    found = judged([*theft, *other])
    assert [f.arm for f in found] == ["linear:n=4096,k=4096", "attention:context=8192"]
    assert found[0].figure("slowdown for each GB/s stolen").value == pytest.approx(0.5 / 15, rel=0.2)


def test_a_thief_that_takes_little_and_slows_nothing_decides_nothing():
    theft = worlds.theft_in(World(processes=4, within=0.002), 1, 0.0, 0.0)
    little = [replace(o, factors=o.factors | {"machine_read_bytes_per_s": 2e11}) for o in theft]
    (found,) = judged(little)
    assert found.verdict == "inconclusive"
    assert found.sentence.startswith("The thief of bandwidth took 8% of what the machine can read")
    assert judged(theft)[0].verdict == "refuted"


def test_a_co_runner_that_never_got_its_core_has_no_slowdown_for_each_unit():
    none = {"stolen_flops_per_s": 0.0}
    (found,) = judged(replace(o, factors=o.factors | none) for o in worlds.theft_in(WORLD, 1, 0.5, 0.0))
    assert found.verdict == "supported"
    named = [figure.name for figure in found.figures if "for each" in figure.name]
    assert named == ["slowdown for each GB/s stolen"]


def test_formats_refute_nothing_and_tell_what_they_cost():
    sizes = {"f32": (64e6, 2.1e-3), "bf16": (32e6, 1.1e-3), "int8": (17e6, 1.0e-3)}
    doses = [
        seen(
            time * (1 + 0.01 * p),
            experiment=2,
            arm="weight_format",
            replicate=p,
            bytes=int(size),
            factors={"format": name},
        )
        for p in range(3)
        for name, (size, time) in sizes.items()
    ]
    (found,) = judged(doses)
    assert found.verdict == "inconclusive"
    cost = found.figure("time a byte over that of f32: int8")
    assert cost.value == pytest.approx(1.0e-3 / 17e6 / (2.1e-3 / 64e6) - 1)


def test_clocks_that_stand_still_are_not_run():
    still = worlds.clocks_in(World(processes=9), 1, 0.0, 0.0)
    still = [replace(o, factors=o.factors | {"memory_clock_hz": 2e9}) for o in still]
    (found,) = judged(still)
    assert (found.verdict, found.sentence) == ("not run", "Not run: the memory clock moved by 0% only.")
    unread = [replace(o, factors={"core_clock_hz": 1e9}) for o in still]
    (found,) = judged(unread)
    assert found.sentence == "Not run: the memory clock cannot be read here."


def test_a_pair_needs_two_machines_with_different_memory():
    one = [o for o in worlds.pair_in(WORLD, 1, 1.4, 1.0) if o.factors["machine"] == "slow"]
    assert judged(one)[0].sentence == "Not decided: 1 machine, and a pair is two."
    same = [
        replace(o, factors=o.factors | {"read_bytes_per_s": 3e12}) for o in worlds.pair_in(WORLD, 1, 1, 1)
    ]
    assert "differ by 0% only" in judged(same)[0].sentence


def test_the_bandwidth_of_a_machine_of_a_pair_is_that_of_all_its_turns_and_not_of_the_last_row():
    moved = [0.5, 1.0, 1.7]
    pair = [
        replace(o, factors=o.factors | {"read_bytes_per_s": o.number("read_bytes_per_s") * moved[at % 3]})
        for at, o in enumerate(worlds.pair_in(WORLD, 1, 1.4, 1.0))
    ]
    (found,) = judged(pair)
    assert found.figure("bandwidth of fast over slow").value == pytest.approx(1.4)


def test_ceilings_of_a_dose_are_those_of_its_times_and_not_the_best_of_any_process():
    doses = [
        seen(
            1.0,
            replicate=process,
            factors={"k": k},
            read_bytes_per_s=read * (k + 1),
            compute_flops_per_s=peak,
        )
        for process, (read, peak) in enumerate([(1e10, 4e11), (9e10, 5e11), (2e10, None)])
        for k in (0.0, 1.0)
    ]
    panel = panel_of(doses, lambda one: one.number("k"))
    assert panel.memory_s.tolist() == [67e6 / 2e10, 67e6 / 4e10]
    assert panel.compute_s.tolist() == [33e6 / 4.5e11] * 2
    dark = panel_of([replace(o, read_bytes_per_s=None) for o in doses], lambda one: one.number("k"))
    assert np.isnan(dark.memory_s).all()


def test_a_finding_is_json_without_nan():
    (found,) = judged(worlds.free_compute_in(World(worlds.launch_bound, processes=3), 2))
    as_json = found.to_dict()
    assert as_json["verdict"] == found.verdict
    assert all(f["value"] is None or f["value"] == f["value"] for f in as_json["figures"])
    with pytest.raises(KeyError):
        found.figure("nothing")
    assert isinstance(found.figures[0], Figure)


def test_a_dose_measured_twice_in_a_process_counts_once():
    twice = [seen(1.0, factors={"k": 2.0}), seen(4.0, factors={"k": 2.0}), seen(3.0, factors={"k": 5.0})]
    panel = panel_of(twice, lambda one: one.number("k"))
    assert panel.ln_time.shape == (1, 2)
    assert panel.mean_s == pytest.approx([2.0, 3.0])
    assert panel.memory_s == pytest.approx([67e6 / 3e10] * 2)


def test_captured_launches_are_judged_beside_plain_ones_and_both_overheads_are_told():
    plain = worlds.suite_in(World(worlds.launch_bound, processes=4), 3)
    graph = [replace(one, arm="graph") for one in worlds.suite_in(WORLD, 4)]
    found = {f.arm: f for f in judged([*plain, *graph])}
    assert {arm: f.verdict for arm, f in found.items()} == {"plain": "refuted", "graph": "supported"}
    assert found["plain"].figure("t0").value == pytest.approx(0.3, rel=0.1)
    t0 = found["graph"].figure("t0").value
    assert t0 < 1e-3
    (backend,) = {f.backend for f in found.values()}
    assert fitted_launch_s(found.values(), backend) == t0
