"""The half of a layer that holds a state of Mamba-2, in compiled code, for one new token a sequence.

    mamba_half(FMT, ACT, M, ROWS, layer, arena, at, gains, b, s, states)

Heads of a group, which share what writes and what reads, are a unit of work; units are shared out among threads. A head's matrix is read
once and written beside the one before it: however often a step is launched, it is the same one. Arithmetic:
`membound.kernels.recurrence`; the state is float32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import prange

from membound.kernels.cpu.linked import linked
from membound.kernels.cpu.matmul.linear import multiply, prepare
from membound.kernels.cpu.step.delta import convolve
from membound.kernels.cpu.step.step import add_rows, norm_rows
from membound.kernels.weights.formats import F32

_ONE = np.float32(1)


class MambaStates(NamedTuple):
    """States of all layers that have one, flat float32, and the vectors that go with them, a row a state.

    place, tails and conv as in `delta.States`. matrices [states, sequences, heads, head_dim, state_dim] before the step, and behind it;
    behind a prompt [states, sequences, heads, state_dim, head_dim].
    into_bias: of what goes into the layer, in the order x, B, C, time steps, gate; a width of 0 where there is none.
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
    skip: F32
    gain: F32
    into_bias: F32
    heads: int
    head_dim: int
    state_dim: int
    groups: int
    kernel: int
    least_step: float


@linked
def mamba_half(
    FMT: Any, ACT: Any, M: Any, ROWS: Any, layer: Any, arena: Any, at: Any, gains: Any, b: Any, s: Any, states: Any
) -> None:  # fmt: skip
    """Norm, products, the state and the output of a layer, added to b.x; its matrices begin at bytes at[0] and at[1]."""
    width, place = states.heads * states.head_dim, states.place[layer]
    wide = 2 * width + 2 * states.groups * states.state_dim + states.heads
    norm_rows(M, b.x, gains.attention_in, layer, s, b.normed)
    prepare(FMT, ACT, M, b.normed, 0, s.hidden, s.hidden, b.scratch)
    multiply(FMT, ACT, M, arena, at[0], wide, s.hidden, b.scratch, b.heads, s.threads)
    stride, bias = (wide + ROWS - 1) // ROWS * ROWS, states.into_bias[place]
    for row in range(M):
        line = b.heads[row * stride :][:wide]
        for i in range(bias.size):
            line[i] += bias[i]
    _update(M, b.heads, stride, place, states, np.float32(s.eps), b.attention, s.threads)
    prepare(FMT, ACT, M, b.attention, 0, width, width, b.scratch)
    multiply(FMT, ACT, M, arena, at[1], s.hidden, width, b.scratch, b.narrow, s.threads)
    narrow = (s.hidden + ROWS - 1) // ROWS * ROWS
    add_rows(M, b.x, b.narrow, narrow, gains.o_bias, gains.attention_out, layer, s)


@linked(parallel=True)
def _update(
    M: Any, lines: Any, stride: Any, place: Any, states: Any, eps: Any, out: Any, threads: Any
) -> None:
    """Every unit's part of out [M, heads · head_dim]."""
    units = M * states.groups
    for t in prange(threads):
        thread = np.intp(t)
        for unit in range(thread * units // threads, (thread + 1) * units // threads):
            row = unit // states.groups
            line = lines[row * stride : (row + 1) * stride]
            _unit(line, row, unit - row * states.groups, place * M + row, place, states, eps, out)


@linked(fastmath=True)
def _unit(
    line: Any, row: Any, group: Any, sequence: Any, place: Any, states: Any, eps: Any, out: Any
) -> None:
    """The heads of a group, of one row, whose state is number `sequence`, and the norm over them."""
    heads, dim, state_dim = states.heads, states.head_dim, states.state_dim
    width, shared, each = heads * dim, states.groups * state_dim, heads // states.groups
    channels = width + 2 * shared
    x, write, read = (
        np.empty(dim, np.float32),
        np.empty(state_dim, np.float32),
        np.empty(state_dim, np.float32),
    )
    convolve(line, width + group * state_dim, channels, sequence, place, states, write)
    convolve(line, width + shared + group * state_dim, channels, sequence, place, states, read)
    y, total = out[row * width + group * each * dim :][: each * dim], np.float32(0)
    for h in range(group * each, (group + 1) * each):
        convolve(line, h * dim, channels, sequence, place, states, x)
        step = line[channels + h] + states.dt_bias[place, h]
        softplus = max(step, np.float32(0)) + np.log(_ONE + np.exp(-abs(step)))
        time = max(softplus, np.float32(states.least_step))
        first, size = (sequence * heads + h) * dim * state_dim, dim * state_dim
        answer = y[(h - group * each) * dim :][:dim]
        _add(
            states.matrices[first : first + size], states.matrices_after[first : first + size],
            x, write, read, np.exp(states.decay[place, h] * time), time, states.skip[place, h], answer,
        )  # fmt: skip
        gate = line[channels + heads + h * dim :][:dim]
        for i in range(dim):
            answer[i] *= gate[i] / (_ONE + np.exp(-gate[i]))
            total += answer[i] * answer[i]
    factor = _ONE / np.sqrt(total / np.float32(each * dim) + eps)
    gain = states.gain[place]
    for i in range(each * dim):
        y[i] *= factor * gain[group * each * dim + i]


@linked(fastmath=True)
def _add(
    state: Any, after: Any, x: Any, write: Any, read: Any, kept: Any, time: Any, skip: Any, answer: Any
) -> None:
    """A head's matrix [x.size, write.size] behind the token, what is read of it, and x past it."""
    width = write.size
    for i in range(x.size):
        row, into = state[i * width : (i + 1) * width], after[i * width : (i + 1) * width]
        added, total = time * x[i], np.float32(0)
        for j in range(width):
            new = kept * row[j] + added * write[j]
            into[j] = new
            total += new * read[j]
        answer[i] = total + skip * x[i]
