"""Tokens of prompts that go over states in the CPU's kernels, chunk by chunk, against the float64 recurrence, which goes token by token."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hybrid_models import DELTA, MAMBA

from membound.kernels.cpu.compile import kernel, set_threads
from membound.kernels.cpu.step.chunk import Chunk
from membound.kernels.cpu.step.delta import States
from membound.kernels.cpu.step.delta_prompt import delta_tokens
from membound.kernels.cpu.step.mamba import MambaStates
from membound.kernels.cpu.step.mamba_prompt import mamba_tokens
from membound.kernels.cpu.step.packed_hybrid import packed_states
from membound.kernels.cpu.step.packed_routed import MAMBA as MAMBA_ORDER
from membound.kernels.mixers import GatedDelta, Mamba2
from membound.kernels.recurrence import mix
from membound.kernels.reference import relative_error
from membound.kernels.weights.states import empty_state, matrix_shape

pytestmark = pytest.mark.instruction_set
HIDDEN, EPS, NOBODYS = 96, 1e-6, 5.0
BIASED = replace(MAMBA, bias=True, least_step=0.3)
WIDE = replace(DELTA, key_heads=1, value_heads=2, key_dim=33, value_dim=70, kernel=4)
"""Columns of a whole block, and of a part of one."""


@cache
def tokens_kernel(delta: bool) -> Any:
    tokens = delta_tokens if delta else mamba_tokens

    @kernel()
    def run(
        lines: Any, stride: Any, states: Any, sequences: Any, first: Any, count: Any, each: Any, eps: Any, out: Any, threads: Any
    ) -> None:  # fmt: skip
        tokens(lines, stride, 1, states, sequences, Chunk(first, count, each), eps, out, threads)

    return run


def run(
    mixer: GatedDelta | Mamba2, made: dict[str, np.ndarray], states: States | MambaStates, batch: int, rows: int, threads: int
) -> np.ndarray:  # fmt: skip
    """What comes out of all tokens, `rows` at a time."""
    order = ("q", "k", "v", "b", "a", "z") if isinstance(mixer, GatedDelta) else MAMBA_ORDER
    lines = np.concatenate([made[name] for name in order], 1).astype(np.float32)
    every, stride = len(lines), lines.shape[1] + 3
    width = made["z"].shape[1]
    found = []
    for first in range(0, every, rows):
        chunk = np.full((rows, stride), NOBODYS, np.float32)  # also in rows behind the last token
        count = min(rows, every - first)
        chunk[:count, :-3] = lines[first : first + count]
        out = np.full(rows * width, NOBODYS, np.float32)
        tokens_kernel(isinstance(mixer, GatedDelta))(
            chunk.reshape(-1), stride, states, batch, first, count, every // batch, np.float32(EPS), out, threads
        )  # fmt: skip
        assert (out[count * width :] == NOBODYS).all()
        found.append(out.reshape(rows, width)[:count])
    return np.concatenate(found)


@pytest.mark.parametrize("tokens", [1, 2, 63, 65, 130])
@pytest.mark.parametrize(
    "mixer", [DELTA, WIDE, MAMBA, BIASED], ids=["delta", "wide delta", "mamba", "biased mamba"]
)
def test_tokens_are_the_recurrence_and_so_is_what_they_leave(mixer: GatedDelta | Mamba2, tokens: int) -> None:
    """Decays are from next to none to nearly all; the second launch finds what the first has written."""
    set_threads(2)
    rng = np.random.default_rng((tokens, 4))
    vectors = {
        name: (rng.standard_normal(n) * 1.5).astype(np.float32)
        for name, n in mixer.vector_widths(HIDDEN).items()
        if name != "o_bias"
    }
    order, shape = mixer.matrices(HIDDEN), matrix_shape(mixer)
    for batch, rows, threads in ((1, 64, 1), (2, 48, 2), (3, 16, 3)):
        made = {
            name: rng.standard_normal((batch * tokens, n)) for name, (n, _) in order.items() if name != "o"
        }
        y, after = mix(
            np.zeros((batch * tokens, HIDDEN)), mixer, empty_state(mixer, batch),
            lambda name, x, made=made: x if name == "o" else made[name], vectors, EPS,
        )  # fmt: skip
        states = packed_states(mixer, [vectors, vectors], np.arange(2), batch, HIDDEN, None)
        for _ in range(2):
            assert relative_error(run(mixer, made, states, batch, rows, threads), y) < 1e-5
        left = states.matrices_after.reshape(2, batch, shape[0], -1)
        behind = left[1].reshape(
            batch, shape[0], *(shape[1:] if isinstance(mixer, GatedDelta) else shape[:0:-1])
        )
        if isinstance(mixer, Mamba2):
            behind = behind.transpose(0, 1, 3, 2)
        assert relative_error(behind, after.matrices) < 1e-5
        tails = states.tails_after.reshape(2, *after.tail.shape)
        assert relative_error(tails[1], after.tail) < 1e-6
        assert not left[0].any()
        assert not tails[0].any()  # of another layer


def test_keys_that_are_all_alike_lose_no_digits() -> None:
    """Without decay each token corrects what all before it wrote."""
    set_threads(2)
    tokens, rng = 130, np.random.default_rng(7)
    conv = np.zeros((DELTA.channels, DELTA.kernel), np.float32)
    conv[:, -1] = 1
    vectors = {"conv": conv.ravel(), "log_decay": np.full(DELTA.value_heads, -30, np.float32)}
    vectors |= {"dt_bias": np.zeros(DELTA.value_heads, np.float32)}
    vectors |= {"state_norm": np.ones(DELTA.value_dim, np.float32)}
    made = {
        name: rng.standard_normal((tokens, n))
        for name, (n, _) in DELTA.matrices(HIDDEN).items()
        if name != "o"
    }
    made["k"] = np.tile(rng.standard_normal(DELTA.key_heads * DELTA.key_dim), (tokens, 1))
    made["b"] = np.full((tokens, DELTA.value_heads), 8.0)  # nearly all of a miss is corrected
    _, after = mix(
        np.zeros((tokens, HIDDEN)), DELTA, empty_state(DELTA, 1),
        lambda name, x: x if name == "o" else made[name], vectors, EPS,
    )  # fmt: skip
    states = packed_states(DELTA, [vectors, vectors], np.arange(2), 1, HIDDEN, None)
    run(DELTA, made, states, 1, 64, 2)
    behind = states.matrices_after.reshape(2, *after.matrices.shape)[1]
    assert relative_error(behind, after.matrices) < 1e-5
