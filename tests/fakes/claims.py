"""A whole claim as a file would hold it, from worlds of a known law: one backend as claimed, one where FLOPs count."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import worlds
from observations import meta, seen
from rows import ceiling
from worlds import PEAK, READ, World

from membound.results.claim.experiments import load_experiments
from membound.results.claim.file import Claim, new_claim_path
from membound.results.claim.observation import Observation
from membound.results.store import RunWriter

AS_CLAIMED = World(processes=4)
OTHERWISE = World(worlds.mixed, processes=4)
STEP = "step:model=tiny,batch=1,context=512,weight=bf16,kv=bf16,act=float"


def whole_claim() -> Claim:
    """``alpha:cpu`` obeys the claim in every experiment, ``beta:cpu`` does not; one arm crashed, one is a step."""
    alpha = [
        *worlds.free_compute_in(AS_CLAIMED, 1),
        *worlds.byte_dose_in(AS_CLAIMED, 1),
        *worlds.flop_dose_in(AS_CLAIMED, 1),
        *worlds.theft_in(AS_CLAIMED, 1, 0.5, 0.0),
        *worlds.residency_in(AS_CLAIMED, 1, 0.8),
        *worlds.linear_knee_in(AS_CLAIMED, 1),
        *worlds.attention_knee_in(AS_CLAIMED, 1),
        *worlds.suite_in(AS_CLAIMED, 1),
        *worlds.counterexamples_in(AS_CLAIMED, 1),
        *worlds.expert_dose_in(AS_CLAIMED, 1),
        *worlds.attention_queries_in(AS_CLAIMED, 1),
        *worlds.windows_in(AS_CLAIMED, 1),
    ]
    beta = [*worlds.free_compute_in(OTHERWISE, 2), *worlds.byte_dose_in(OTHERWISE, 2)]
    crashed = seen(None, experiment=3, arm="linear_<int8>", status="crashed", reason="SIGSEGV & co")
    return Claim(
        meta(experiments_sha256=load_experiments().sha256),
        (
            ceiling("read", READ, "bytes/s", backend="cpu"),
            ceiling("fma_f32", PEAK, "FLOP/s", backend="cpu"),
            ceiling("dot_int8", 4 * PEAK, "FLOP/s", backend="cpu"),
        ),
        (*alpha, *(replace(one, backend="beta:cpu") for one in beta), crashed, _step()),
    )


def _step() -> Observation:
    """A measured step: 5.4 MB, far from both ceilings."""
    return seen(
        5e-3,
        experiment=7,
        arm="plain",
        work=STEP,
        factors={"operations": 20},
        replicate=9,
        backend="gamma:cpu",
    )


def write_claim(folder: Path, claim: Claim) -> Path:
    """A claim file."""
    with RunWriter(new_claim_path(folder, claim.meta.claim_id)) as writer:
        for line in (claim.meta, *claim.ceilings, *claim.observations):
            writer.append(line)
    return writer.path
