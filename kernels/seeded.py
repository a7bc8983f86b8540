"""Seeded inputs: the same work and seed give the same numbers, to every backend and in every process.

>>> from membound.kernels.work import parse
>>> inputs = make_inputs(parse("attention:context=100"), seed=1, slots=2)
>>> inputs.q.shape, inputs.cache(slot=1).k.shape
((1, 32, 128), (1, 8, 100, 128))
"""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from pathlib import Path

import numpy as np

from membound.kernels.inputs import (
    AttentionInputs,
    ExpertInputs,
    Inputs,
    LinearInputs,
    ModelInputs,
    OnnxInputs,
)
from membound.kernels.onnx_step import OnnxStep
from membound.kernels.operations import LATENT_DIM, DecodeAttention, LatentAttention, Linear
from membound.kernels.own_routes import index_choice, own_routes
from membound.kernels.prompt import held_caches
from membound.kernels.route_plan import RoutePlan, with_codes
from membound.kernels.routed_experts import RoutedExperts
from membound.kernels.routing import plant_rows
from membound.kernels.steps import Prefill, Step, has_index
from membound.kernels.weights.generate import normal, prompt_tokens
from membound.kernels.weights.layers import WeightSource
from membound.kernels.weights.making import Take, make_here
from membound.kernels.weights.planted_model import PlantedSource
from membound.kernels.weights.random_model import RandomSource
from membound.kernels.work import Work

# Queries of a step are this much longer, so that attention over random caches is peaked as in trained
# models. With flat attention a thousand values average out, and logits hardly change when a head or a
# token is wrong. A prompt's keys are longer by themselves: the same gain there makes the depth chaotic.
STEP_QUERY_GAIN = 4


def make_inputs(
    work: Work, seed: int, slots: int = 1, folder: Path | None = None, take: Take = make_here
) -> Inputs:
    """The inputs of a work. `slots` input sets for single operations, one for a model.

    `folder` as in `ModelInputs`. `take`: whoever has made an array, if others prepare the same work.
    """
    rng = np.random.default_rng(seed)
    if isinstance(work, Linear):
        return LinearInputs(work, seed, slots, normal(rng, work.m, work.k), take)
    if isinstance(work, DecodeAttention | LatentAttention):
        # Three times a unit normal: scores spread enough that softmax is neither flat nor one-hot. Latent
        # attention divides by sqrt(192) for 576 columns: as much spread comes of a third of the variance.
        dim, gain = (LATENT_DIM, sqrt(3)) if isinstance(work, LatentAttention) else (work.head_dim, 3)
        several = (work.queries,) if isinstance(work, DecodeAttention) and work.queries > 1 else ()
        q = np.float32(gain) * normal(rng, work.batch, *several, work.q_heads, dim)
        return AttentionInputs(work, seed, slots, q, take)
    if isinstance(work, OnnxStep):
        from membound.kernels.onnx_file.count import ROUTED_SEED
        from membound.kernels.onnx_file.opened import open_decoder

        decoder = open_decoder(Path(work.file))
        return OnnxInputs(work, decoder, ROUTED_SEED if work.bill.routed else seed)
    if isinstance(work, RoutedExperts):
        x = normal(rng, work.batch, work.hidden)
        plant_rows(x, work.codes)
        return ExpertInputs(work, seed, slots, x, take)
    return _model_inputs(work, seed, folder, take)


def _model_inputs(work: Step | Prefill, seed: int, folder: Path | None, take: Take) -> ModelInputs:
    prompted = isinstance(work, Prefill) or work.cache == "prompt"
    source: WeightSource
    plan: RoutePlan | None = None
    own = own_routes if work.shape.folder and work.distinct else None
    if work.shape.folder:
        from membound.kernels.weights.checkpoint import Checkpoint

        source = Checkpoint(work.shape, work.weight, seed, take)
    else:
        random = RandomSource(work.shape, work.weight, seed, 1 if prompted else STEP_QUERY_GAIN, take)
        plan = _plan(work, seed)
        source = PlantedSource(random, plan) if plan else random
    choice = index_choice if has_index(work.shape.decoder) else None
    if not prompted:
        x = source.hidden_states(work.rows)
        return ModelInputs(
            work, work.shape, seed, x, source,
            folder=folder, take=take, plan=plan, own_routes=own, index_choice=choice,
        )  # fmt: skip
    count = work.tokens if isinstance(work, Prefill) else work.context + work.queries
    tokens = prompt_tokens(seed, work.batch, count, work.shape.vocab)
    if plan is not None:
        routed = tokens if isinstance(work, Prefill) else tokens[:, work.context :]
        routed[:] = with_codes(routed, plan.codes, work.shape.vocab)
    seen = tokens if isinstance(work, Prefill) else tokens[:, work.context :]
    inputs = ModelInputs(
        work,
        work.shape,
        seed,
        np.empty(0, np.float32),
        source,
        tokens=tokens,
        folder=folder,
        prompt_caches=held_caches,
        plan=plan,
        own_routes=own,
        index_choice=choice,
    )
    return replace(inputs, x=inputs.embedded(seen))


def _plan(work: Step | Prefill, seed: int) -> RoutePlan | None:
    """Which experts the rows of a model with random weights take; None of a dense one."""
    return RoutePlan(work.shape.decoder, work.rows, work.distinct, seed) if work.distinct else None
