"""The self-test of the claim: worlds of a known law must get the verdict that they deserve, and wrong ones be refuted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import pytest
import worlds
from worlds import World

from membound.results.claim.experiments import load_experiments
from membound.results.claim.finding import Finding
from membound.results.claim.judge import RULES, judge_claim
from membound.results.claim.observation import Observation

REGISTER = load_experiments()
MEMORY = World(worlds.memory_bound)
COMPUTE = World(worlds.compute_bound)
LAUNCH = World(worlds.launch_bound)
MIXED = World(worlds.mixed)
STARVED = World(worlds.starved)
UNBENT = World(worlds.unbent)
CLOCKS = World(processes=12)
SEEDS = 200
MOST_FALSE = 0.05

Experiment = Callable[[World, int], list[Observation]]


def judged(observations: Sequence[Observation]) -> Finding:
    (finding,) = judge_claim(observations, REGISTER, only=[0])
    return finding


def verdicts(make: Callable[[int], list[Observation]], seeds: int = SEEDS) -> Counter[str]:
    return Counter(judged(make(seed)).verdict for seed in range(seeds))


theft = partial(worlds.theft_in, by_bandwidth=0.6, by_fma=0.01)
theft_of_flops = partial(worlds.theft_in, by_bandwidth=0.3, by_fma=0.3)
theft_of_nothing = partial(worlds.theft_in, by_bandwidth=0.0, by_fma=0.0)
residency = partial(worlds.residency_in, gain=0.8)
no_residency = partial(worlds.residency_in, gain=0.0)
memory_clock = partial(worlds.clocks_in, memory=-0.9, core=-0.05)
core_clock = partial(worlds.clocks_in, memory=-0.05, core=-0.9)
pair = partial(worlds.pair_in, decode=1.38, prefill=1.0)
pair_of_cores = partial(worlds.pair_in, decode=1.0, prefill=1.0)
pair_of_generations = partial(worlds.pair_in, decode=1.38, prefill=1.4)
whole_windows = partial(worlds.read_whole_in, doses=worlds.WINDOWS)
whole_states = partial(worlds.read_whole_in, doses=worlds.STATES)
wide_attention = partial(worlds.attention_knee_in, query_heads=512)

RIGHT: list[tuple[Experiment, World, str]] = [
    (worlds.free_compute_in, MEMORY, "supported"),
    (worlds.free_compute_in, COMPUTE, "refuted"),
    (worlds.free_compute_in, LAUNCH, "inconclusive"),
    (worlds.free_compute_in, MIXED, "refuted"),
    (worlds.byte_dose_in, MEMORY, "supported"),
    (worlds.byte_dose_in, COMPUTE, "refuted"),
    (worlds.byte_dose_in, LAUNCH, "refuted"),
    (worlds.byte_dose_in, MIXED, "refuted"),
    (worlds.flop_dose_in, MEMORY, "supported"),
    (worlds.flop_dose_in, COMPUTE, "refuted"),
    (worlds.flop_dose_in, LAUNCH, "inconclusive"),
    (worlds.flop_dose_in, MIXED, "refuted"),
    (theft, MEMORY, "supported"),
    (theft_of_flops, MEMORY, "refuted"),
    (theft_of_nothing, MEMORY, "refuted"),
    (residency, MEMORY, "supported"),
    (no_residency, MEMORY, "instrument broken"),
    (worlds.linear_knee_in, MEMORY, "supported"),
    (worlds.linear_knee_in, COMPUTE, "refuted"),
    (worlds.linear_knee_in, LAUNCH, "inconclusive"),
    (worlds.linear_knee_in, MIXED, "refuted"),
    (worlds.attention_knee_in, MEMORY, "supported"),
    (wide_attention, MEMORY, "refuted"),
    (worlds.attention_knee_in, LAUNCH, "inconclusive"),
    (worlds.suite_in, MEMORY, "supported"),
    (worlds.suite_in, LAUNCH, "refuted"),
    (worlds.suite_in, MIXED, "supported"),
    (memory_clock, CLOCKS, "supported"),
    (core_clock, CLOCKS, "refuted"),
    (pair, MEMORY, "supported"),
    (pair_of_cores, MEMORY, "refuted"),
    (pair_of_generations, MEMORY, "refuted"),
    (worlds.counterexamples_in, MEMORY, "supported"),
    (worlds.counterexamples_in, STARVED, "refuted"),
    (worlds.expert_dose_in, MEMORY, "supported"),
    (worlds.expert_dose_in, MIXED, "refuted"),
    (worlds.expert_dose_in, LAUNCH, "refuted"),
    (worlds.expert_dose_in, STARVED, "inconclusive"),
    (worlds.dense_queries_in, MEMORY, "supported"),
    (worlds.dense_queries_in, COMPUTE, "refuted"),
    (worlds.dense_queries_in, MIXED, "refuted"),
    (worlds.dense_queries_in, LAUNCH, "inconclusive"),
    (worlds.attention_queries_in, MEMORY, "supported"),
    (worlds.attention_queries_in, UNBENT, "refuted"),
    (worlds.attention_queries_in, STARVED, "inconclusive"),
    (worlds.expert_queries_in, MEMORY, "supported"),
    (worlds.expert_queries_in, COMPUTE, "refuted"),
    (worlds.expert_queries_in, LAUNCH, "inconclusive"),
    (worlds.shared_heads_in, MEMORY, "supported"),
    (worlds.shared_heads_in, COMPUTE, "refuted"),
    (worlds.shared_heads_in, MIXED, "refuted"),
    (worlds.shared_heads_in, LAUNCH, "inconclusive"),
    (worlds.states_in, MEMORY, "supported"),
    (worlds.states_in, LAUNCH, "inconclusive"),
    (worlds.windows_in, MEMORY, "supported"),
    (whole_windows, MEMORY, "refuted"),
    (whole_states, MEMORY, "refuted"),
    (worlds.short_contexts_in, MEMORY, "inconclusive"),
]


def label(value: object) -> str:
    if isinstance(value, World):
        return value.law.__name__
    name = value.func.__name__ if isinstance(value, partial) else getattr(value, "__name__", str(value))
    more = (
        [
            one.arm if isinstance(one := v[0] if isinstance(v, list) else v, worlds.Dose) else f"{v}"
            for v in value.keywords.values()
        ]
        if isinstance(value, partial)
        else []
    )
    return "-".join([name, *more])


def quiet(make: Experiment, world: World) -> World:
    """Narrow rules need processes that agree: a pair is compared unpaired, and no slowdown means below 2 %."""
    if isinstance(make, partial) and make.func is worlds.pair_in:
        return replace(world, between=0.005, within=0.002)
    return replace(world, within=0.005) if make is theft_of_nothing else world


@pytest.mark.parametrize(("make", "world", "verdict"), RIGHT, ids=label)
def test_a_known_world_gets_the_verdict_that_it_deserves(make, world, verdict):
    found = verdicts(lambda seed: make(quiet(make, world), seed), seeds=20)
    assert found[verdict] >= 19, found


def test_every_experiment_is_supported_in_one_world_and_says_no_in_another():
    numbers = {
        verdict: {judged(make(quiet(make, world), 0)).experiment for make, world, v in RIGHT if v == verdict}
        for verdict in ("supported", "refuted", "instrument broken")
    }
    assert numbers["supported"] == set(RULES)
    assert numbers["refuted"] | numbers["instrument broken"] == set(RULES)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "world", "verdict"), RIGHT, ids=label)
def test_noise_makes_verdicts_inconclusive_and_hardly_ever_wrong(make, world, verdict):
    fewest = REGISTER[judged(make(world, 0)).experiment].processes
    loud = replace(world, processes=fewest, between=0.15, within=0.06)
    found = verdicts(lambda seed: make(loud, seed))
    wrong = SEEDS - found[verdict] - found["inconclusive"]
    if verdict == "inconclusive":
        wrong = found["supported"]
    assert wrong <= MOST_FALSE * SEEDS, found
