"""The half of a layer that holds a state, in compiled code: the gated delta rule of one new token a sequence.

    delta_half(FMT, ACT, M, ROWS, layer, arena, at, gains, b, s, states)

A key head and its value heads are a unit of work; units are shared out among threads. A head's matrix is read once for what key and
query recall, then decayed, corrected and written beside the one before it, while it is still in the cache: however often a step is
launched, it is the same one. Arithmetic: `membound.kernels.recurrence`; the state is float32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import prange

from membound.kernels.cpu.linked import linked
from membound.kernels.cpu.matmul.linear import multiply, prepare
from membound.kernels.cpu.step.step import add_rows, norm_rows
from membound.kernels.recurrence import LENGTH_EPS
from membound.kernels.weights.formats import F32

_LENGTH_EPS = np.float32(LENGTH_EPS)
_ONE = np.float32(1)


class States(NamedTuple):
    """States of all layers that have one, flat float32, and the vectors that go with them, a row a state.

    place [layers]: which state is a layer's, −1 where it has none. tails [states, sequences, kernel − 1, channels] and matrices
    [states, sequences, value heads, key_dim, value_dim] before the step, and behind it; before a prompt nothing. conv [states, kernel, channels]; conv_bias has a
    width of 0 where there is none.
    """

    place: npt.NDArray[np.int64]
    tails: F32
    tails_after: F32
    matrices: F32
    matrices_after: F32
    conv: F32
    conv_bias: F32
    decay: F32
    dt_bias: F32
    gain: F32
    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int


@linked
def delta_half(
    FMT: Any, ACT: Any, M: Any, ROWS: Any, layer: Any, arena: Any, at: Any, gains: Any, b: Any, s: Any, states: Any
) -> None:  # fmt: skip
    """Norm, products, the state and the output of a layer, added to b.x; its matrices begin at bytes at[0] and at[1]."""
    values = states.value_heads * states.value_dim
    channels = 2 * states.key_heads * states.key_dim + values
    wide = channels + 2 * states.value_heads + values
    norm_rows(M, b.x, gains.attention_in, layer, s, b.normed)
    prepare(FMT, ACT, M, b.normed, 0, s.hidden, s.hidden, b.scratch)
    multiply(FMT, ACT, M, arena, at[0], wide, s.hidden, b.scratch, b.heads, s.threads)
    stride = (wide + ROWS - 1) // ROWS * ROWS
    _update(M, b.heads, stride, states.place[layer], states, np.float32(s.eps), b.attention, s.threads)
    prepare(FMT, ACT, M, b.attention, 0, values, values, b.scratch)
    multiply(FMT, ACT, M, arena, at[1], s.hidden, values, b.scratch, b.narrow, s.threads)
    narrow = (s.hidden + ROWS - 1) // ROWS * ROWS
    add_rows(M, b.x, b.narrow, narrow, gains.o_bias, gains.attention_out, layer, s)


@linked(parallel=True)
def _update(
    M: Any, lines: Any, stride: Any, place: Any, states: Any, eps: Any, out: Any, threads: Any
) -> None:
    """Every unit's part of out [M, value heads · value_dim]."""
    units = M * states.key_heads
    for t in prange(threads):
        thread = np.intp(t)
        for unit in range(thread * units // threads, (thread + 1) * units // threads):
            row = unit // states.key_heads
            line = lines[row * stride : (row + 1) * stride]
            _unit(line, row, unit - row * states.key_heads, place * M + row, place, states, eps, out)


@linked(fastmath=True)
def _unit(
    line: Any, row: Any, group: Any, sequence: Any, place: Any, states: Any, eps: Any, out: Any
) -> None:
    """A key head and its value heads, of one row, whose state is number `sequence`."""
    dim, heads, value_dim = states.key_dim, states.value_heads, states.value_dim
    keys, each = states.key_heads * dim, heads // states.key_heads
    channels = 2 * keys + heads * value_dim
    q, k, v = np.empty(dim, np.float32), np.empty(dim, np.float32), np.empty(value_dim, np.float32)
    convolve(line, group * dim, channels, sequence, place, states, q)
    convolve(line, keys + group * dim, channels, sequence, place, states, k)
    q_length, k_length, both = _LENGTH_EPS, _LENGTH_EPS, np.float32(0)
    for i in range(dim):
        q_length += q[i] * q[i]
        k_length += k[i] * k[i]
    q_factor, k_factor = _ONE / np.sqrt(q_length * np.float32(dim)), _ONE / np.sqrt(k_length)
    for i in range(dim):
        q[i] *= q_factor
        k[i] *= k_factor
        both += q[i] * k[i]
    for h in range(group * each, (group + 1) * each):
        convolve(line, 2 * keys + h * value_dim, channels, sequence, place, states, v)
        share = _ONE / (_ONE + np.exp(-line[channels + h]))
        step = line[channels + heads + h] + states.dt_bias[place, h]
        softplus = max(step, np.float32(0)) + np.log(_ONE + np.exp(-abs(step)))
        kept = np.exp(states.decay[place, h] * softplus)
        first = (sequence * heads + h) * dim * value_dim
        size = dim * value_dim
        answer = out[(row * heads + h) * value_dim :][:value_dim]
        _correct(
            states.matrices[first : first + size], states.matrices_after[first : first + size],
            q, k, v, kept, share, both, answer,
        )  # fmt: skip
        gate = line[channels + 2 * heads + h * value_dim :][:value_dim]
        total = np.float32(0)
        for j in range(value_dim):
            total += answer[j] * answer[j]
        factor = _ONE / np.sqrt(total / np.float32(value_dim) + eps)
        for j in range(value_dim):
            answer[j] *= factor * states.gain[place, j] * gate[j] / (_ONE + np.exp(-gate[j]))


@linked(fastmath=True)
def convolve(line: Any, first: Any, channels: Any, sequence: Any, place: Any, states: Any, out: Any) -> None:
    """SiLU of the convolution over out.size columns from `first` on; the tail moves on by one token. `states`: of either kind."""
    count, tokens, bias = out.size, states.kernel - 1, states.conv_bias[place]
    new, weights = line[first : first + count], states.conv[place]
    last = weights[tokens * channels + first :][:count]
    for i in range(count):
        out[i] = last[i] * new[i] + (bias[first + i] if bias.size else np.float32(0))
    for token in range(tokens):
        at = (sequence * tokens + token) * channels + first
        old, weight = states.tails[at : at + count], weights[token * channels + first :][:count]
        for i in range(count):
            out[i] += weight[i] * old[i]
        if token:
            before = states.tails_after[at - channels : at - channels + count]
            for i in range(count):
                before[i] = old[i]
    at = (sequence * tokens + tokens - 1) * channels + first
    newest = states.tails_after[at : at + count]
    for i in range(count):
        newest[i] = new[i]
        out[i] /= _ONE + np.exp(-out[i])


@linked(fastmath=True)
def _correct(
    state: Any, after: Any, q: Any, k: Any, v: Any, kept: Any, share: Any, both: Any, answer: Any
) -> None:
    """A head's matrix [q.size, v.size] behind the token, and what its query recalls of that."""
    dim, width = q.size, v.size
    recalled = np.zeros(width, np.float32)
    for j in range(width):
        answer[j] = np.float32(0)
    for i in range(dim):
        row, key, query = state[i * width : (i + 1) * width], k[i], q[i]
        for j in range(width):
            recalled[j] += key * row[j]
            answer[j] += query * row[j]
    for j in range(width):
        recalled[j] = share * (v[j] - kept * recalled[j])
        answer[j] = kept * answer[j] + both * recalled[j]
    for i in range(dim):
        row, into, key = state[i * width : (i + 1) * width], after[i * width : (i + 1) * width], k[i]
        for j in range(width):
            into[j] = kept * row[j] + key * recalled[j]
