"""The inputs of a step of an exported decoder: seeded tokens, masks and positions of a full context, random caches.

>>> small_feeds(decoder, batch=2, context=100, seed=1)["position_ids"]
array([[100], [100]])

The tokens of a batch are distinct as far as the vocabulary allows, so that as many rows of the embedding are read whatever the
seed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from membound.kernels.onnx_file.decoder import (
    BRANCH,
    CACHE_POSITION,
    EMBEDDINGS,
    IDS,
    KEPT,
    LENGTHS,
    MASK,
    POSITIONS,
    TOTAL,
    Cache,
    OnnxDecoder,
    role_of,
)
from membound.kernels.onnx_file.graph import Declared
from membound.kernels.onnx_file.numbers import Array
from membound.kernels.onnx_file.operators import ghost

CACHE_STREAM = 1 << 23
"""Seeds of caches are apart from those of other inputs."""


def small_feeds(decoder: OnnxDecoder, batch: int, context: int, seed: int) -> dict[str, Array]:
    """Everything but the caches, in the types that the file declares. Raises ModelError."""
    shapes = decoder.shapes(batch, context)
    return {name: _values(decoder, one, shapes[name], context, seed) for name, one in decoder.inputs.items()}


def _values(decoder: OnnxDecoder, one: Declared, shape: tuple[int, ...], context: int, seed: int) -> Array:
    role, rng = role_of(one.name), np.random.default_rng((seed, CACHE_STREAM))
    dtype = one.kind.dtype
    if role == IDS:
        count = int(np.prod(shape))
        return np.resize(rng.permutation(decoder.vocab)[:count], shape).astype(dtype)
    if role == EMBEDDINGS:
        return rng.standard_normal(shape).astype(dtype)
    if role == MASK and one.kind.is_float:
        return _padded_mask(np.zeros(shape, dtype), context, float(np.finfo(np.float16).min))
    if role == MASK:
        return _padded_mask(np.ones(shape, dtype), context, 0)
    fixed: dict[str, Any] = {
        POSITIONS: context,
        CACHE_POSITION: context,
        BRANCH: True,
        LENGTHS: context,
        TOTAL: context + 1,
    }
    return np.full(shape, fixed.get(role, 1 if role in KEPT else 0), dtype)


def _padded_mask(mask: Array, context: int, hidden: float) -> Array:
    """Places behind the step's own token, of a mask of fixed length, are hidden."""
    mask[..., context + 1 :] = hidden
    return mask


def cache_values(cache: Cache, batch: int, context: int, seed: int) -> Array:
    """A random cache in the file's type (bfloat16 as its bits): the tokens it holds, zeros in places that are left."""
    from membound.kernels.weights.generate import random_cache, stream_of

    shape = cache.shape(batch, context)
    order = (0, *(axis for axis in range(1, len(shape)) if axis != cache.axis))
    held = cache.held(context)
    # Tokens stand in the last place but one, as in every other cache here; the rest is what lies around them.
    lead, last = shape[order[0]], [shape[axis] for axis in order[1:]]
    heads, width = (last[0], last[1]) if len(last) == 2 else (1, last[0])
    drawn = random_cache(
        cache.format, (lead, heads, held, width), stream_of(seed, CACHE_STREAM + cache.layer)
    )
    values = (drawn.k if cache.part == "key" else drawn.v).reshape(lead, *last[:-1], held, last[-1])
    full = np.zeros(shape, values.dtype)
    place = [slice(None)] * len(shape)
    place[cache.axis] = slice(0, held)
    full[tuple(place)] = np.moveaxis(values, -2, cache.axis)
    return full


def shape_feeds(decoder: OnnxDecoder, batch: int, context: int) -> dict[str, Array]:
    """The inputs of a walk through shapes: caches without numbers. Raises ModelError."""
    small = small_feeds(decoder, batch, context, 0)  # first, as it checks the sizes of caches too
    return small | {cache.name: ghost(cache.shape(batch, context)) for cache in decoder.caches}
