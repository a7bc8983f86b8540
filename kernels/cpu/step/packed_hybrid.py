"""A model some of whose layers hold states, packed for whole decode steps: the arguments of hybrid_step.py.

>>> packed = PackedHybrid(inputs, threads=2)
>>> packed.run()
>>> packed.logits.shape        # [batch, vocab]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from membound.kernels.cpu.experts.packed_layers import blocks_of
from membound.kernels.cpu.step.delta import States
from membound.kernels.cpu.step.hybrid_step import hybrid_step_kernel
from membound.kernels.cpu.step.mamba import MambaStates
from membound.kernels.cpu.step.packed import Packed
from membound.kernels.cpu.step.packed_model import (
    NOTHING,
    attention_of,
    caches_of,
    gains_of,
    positions_of,
    sizes_of,
)
from membound.kernels.cpu.step.packed_routed import MAMBA, RoutedWeights
from membound.kernels.cpu.step.routed_step import Plain
from membound.kernels.inputs import ModelInputs
from membound.kernels.mixers import GatedDelta, Mamba2, Recurrent
from membound.kernels.routing import I64
from membound.kernels.weights.formats import F32
from membound.kernels.weights.states import State
from membound.kernels.work import Step


class PackedHybrid(Packed):
    """A model's weights, caches, states and buffers, ready to run."""

    def __init__(self, inputs: ModelInputs, threads: int) -> None:
        work = inputs.work
        if not isinstance(work, Step):
            raise AssertionError(f"{type(work).__name__} is no Step")
        blocks = blocks_of(inputs)
        held = self._held = RoutedWeights(inputs, work.batch, work.batch, blocks, threads)
        positions = positions_of(work)
        self._states = states_of(inputs, held.small)
        arguments = (
            np.ascontiguousarray(inputs.x.reshape(-1)), held.arena, held.starts,
            gains_of(inputs, held.small, held.orders, positions), caches_of(inputs),
            held.buffers, sizes_of(inputs.model, work.batch, positions, threads), self._states,
            held.routed() if blocks else Plain(held.widths),
        )  # fmt: skip
        kernel = hybrid_step_kernel(
            held.recipe.format, held.recipe.act, work.batch, work.kv, *attention_of(work),
            held.expert_format, blocks, held.head.format, held.head.act,
        )  # fmt: skip
        self._ready(kernel, arguments, held.logits, held.matrix_bytes)

    @property
    def choice(self) -> I64:
        """The experts of each row in the last step [layers with experts, batch, chosen]. Raises AssertionError for a dense model."""
        return self._held.choice

    @property
    def states(self) -> States | MambaStates:
        """Those before the last step, and behind it."""
        return self._states


def states_of(inputs: ModelInputs, small: list[Mapping[str, F32]]) -> States | MambaStates:
    """States of all layers that have one, all of a model alike: those that a step finds, or room for those that a prompt leaves."""
    layers = inputs.model.decoder.layers
    places = [index for index, layer in enumerate(layers) if isinstance(layer.mixer, GatedDelta | Mamba2)]
    mixer = layers[places[0]].mixer
    if not isinstance(mixer, GatedDelta | Mamba2):
        raise AssertionError("no state")
    place = np.full(len(layers), -1, np.int64)
    place[places] = np.arange(len(places))
    held = [inputs.state(index) for index in places] if isinstance(inputs.work, Step) else None
    vectors = [small[index] for index in places]
    return packed_states(mixer, vectors, place, inputs.work.batch, inputs.model.hidden, held)


def packed_states(
    mixer: Recurrent, vectors: Sequence[Mapping[str, F32]], place: I64, batch: int, hidden: int, held: Sequence[State] | None
) -> States | MambaStates:  # fmt: skip
    """A state for each of `vectors`, with those `held` before; `place` as in `States`."""
    tails = matrices = np.zeros(0, np.float32)
    if held is not None:
        tails = np.stack([one.tail for one in held]).astype(np.float32).reshape(-1)
        matrices = np.stack([one.matrices for one in held]).astype(np.float32).reshape(-1)

    def rows(name: str) -> F32:
        return np.ascontiguousarray(np.stack([one.get(name, NOTHING) for one in vectors]))

    count = len(vectors)
    conv = rows("conv").reshape(count, mixer.channels, mixer.kernel)
    common = (
        place, tails, np.zeros(count * batch * mixer.tail_numbers, np.float32),
        matrices, np.zeros(count * batch * mixer.state_numbers, np.float32),
        np.ascontiguousarray(conv.transpose(0, 2, 1)).reshape(count, -1),
        rows("conv_bias"), -np.exp(rows("log_decay")), rows("dt_bias"),
    )  # fmt: skip
    if isinstance(mixer, GatedDelta):
        sizes = mixer.key_heads, mixer.value_heads, mixer.key_dim, mixer.value_dim, mixer.kernel
        return States(*common, rows("state_norm"), *sizes)
    return MambaStates(
        *common, rows("skip"), rows("state_norm"), _as_packed(rows("into_bias"), mixer, hidden),
        mixer.heads, mixer.head_dim, mixer.state_dim, mixer.groups, mixer.kernel, mixer.least_step,
    )  # fmt: skip


def _as_packed(into: F32, mixer: Mamba2, hidden: int) -> F32:
    """Biases of what goes into a layer, which lie in the order of `Mamba2.matrices`, in that of the packed matrix."""
    if not into.size:
        return into
    widths = {name: n for name, (n, _) in mixer.matrices(hidden).items() if name != "o"}
    parts = dict(zip(widths, np.split(into, np.cumsum([*widths.values()])[:-1], axis=1), strict=True))
    return np.ascontiguousarray(np.concatenate([parts[name] for name in MAMBA], 1))
