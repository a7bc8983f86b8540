"""A model's caches in a session of ONNX Runtime: the tokens that each layer keeps, and what its attention goes by.

>>> arrays = past_arrays(inputs)                    # past_k.0, past_v.0, past_k.1, ...
>>> declare_caches(graph, inputs); tables = add_tables(graph, inputs)

A layer with a window keeps no more than the window holds, in the order of its tokens: GroupQueryAttention masks what lies before a
window, and reads it all the same. RoPE's tables of such a layer begin at the position of the first token that is kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from membound.backends.onnx_runtime.graph import CACHE_TYPES, Graph
from membound.kernels.inputs import ModelInputs
from membound.kernels.parts import Attention, Latent
from membound.kernels.work import Step

SHARED = ("seqlens_k", "total", "cos", "sin")
"""The names of `shared_arrays`; those of a second kind of attention have a number behind them."""


def cache_tokens(inputs: ModelInputs, mixer: Attention | Latent) -> int:
    """Places in a layer's cache: the tokens that a step sees and its new ones, or the prompt's."""
    work = inputs.work
    return mixer.seen(work.context) + work.queries if isinstance(work, Step) else work.tokens


def cache_shapes(inputs: ModelInputs) -> dict[str, tuple[int, ...]]:
    """Shapes of all caches by name: k.0 and v.0 [B, Hkv, places, D] of a layer, or rows.0 [B, places, width] of latent attention."""
    batch, shapes = inputs.work.batch, dict[str, tuple[int, ...]]()
    for index, layer in enumerate(inputs.model.decoder.layers):
        mixer, places = layer.attention, cache_tokens(inputs, layer.attention)
        if isinstance(mixer, Latent):
            shapes[f"rows.{index}"] = (batch, places, mixer.token_numbers)
        else:
            shapes |= {f"{name}.{index}": (batch, mixer.kv_heads, places, mixer.head_dim) for name in "kv"}
    return shapes


def past_arrays(inputs: ModelInputs) -> dict[str, npt.NDArray[Any]]:
    """All caches by the names of the graph's inputs, with room for the new tokens behind what they hold."""
    work, kind = inputs.work, CACHE_TYPES[inputs.work.kv]
    arrays = {f"past_{name}": np.zeros(shape, kind) for name, shape in cache_shapes(inputs).items()}
    if not isinstance(work, Step):
        return arrays
    for index, layer in enumerate(inputs.model.decoder.layers):
        held, kept = inputs.cache(index), layer.mixer.seen(work.context)
        if not kept:
            continue
        if isinstance(layer.mixer, Latent):
            arrays[f"past_rows.{index}"][:, :kept] = held.k[:, 0]
        else:
            arrays[f"past_k.{index}"][:, :, :kept] = held.k[:, :, -kept:]
            arrays[f"past_v.{index}"][:, :, :kept] = held.v[:, :, -kept:]
    return arrays


def declare_caches(graph: Graph, inputs: ModelInputs) -> None:
    """Every cache as an input, past, and as an output, present, which are bound to the same memory."""
    kind = CACHE_TYPES[inputs.work.kv]
    for name, shape in cache_shapes(inputs).items():
        graph.declare_input(f"past_{name}", shape, kind)
        graph.declare_output(f"present_{name}", shape, kind)


def add_tables(graph: Graph, inputs: ModelInputs) -> list[tuple[str, ...]]:
    """Of each layer the names of `shared_arrays`, once for all layers that are alike in that; nothing of latent attention."""
    work, made = inputs.work, dict[tuple[object, int], tuple[str, ...]]()
    length = work.context + work.queries if isinstance(work, Step) else work.tokens
    found: list[tuple[str, ...]] = []
    for layer in inputs.model.decoder.layers:
        mixer = layer.attention
        if isinstance(mixer, Latent):
            found.append(())
            continue
        places = cache_tokens(inputs, mixer)
        alike = (mixer.rope, places)
        if alike not in made:
            behind = f".{len(made)}" if made else ""
            arrays = shared_arrays(mixer, work.batch, places, length)
            made[alike] = _add(graph, behind, arrays, CACHE_TYPES[work.kv])
        found.append(made[alike])
    return found


def _add(graph: Graph, behind: str, arrays: dict[str, npt.NDArray[Any]], kind: type[Any]) -> tuple[str, ...]:
    return tuple(
        graph.array(f"{name}{behind}", values.astype(kind) if values.dtype == np.float32 else values)
        for name, values in arrays.items()
    )


def shared_arrays(
    mixer: Attention | Latent, batch: int, places: int, length: int
) -> dict[str, npt.NDArray[Any]]:
    """What GroupQueryAttention takes besides its caches, in its order: lengths and RoPE's tables of the last `places` of `length` tokens.

    seqlens_k [B] is the index of the last token, total the tokens in all, both int32; cos and sin [places, turning columns / 2]
    float32, which are missing where positions are not told.
    """
    lengths: dict[str, npt.NDArray[Any]] = {
        "seqlens_k": np.full(batch, places - 1, np.int32),
        "total": np.array(places, np.int32),
    }
    if isinstance(mixer, Latent) or mixer.rope is None:
        return lengths
    positions = np.arange(length - places, length)
    cos, sin = mixer.rope.table(positions, mixer.head_dim, length)
    return lengths | {"cos": cos.astype(np.float32), "sin": sin.astype(np.float32)}
