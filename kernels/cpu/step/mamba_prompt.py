"""The half of a layer that holds a state of Mamba-2, in compiled code, for a chunk of a prompt's rows.

    mamba_chunk(FMT, ACT, M, ROWS, layer, arena, at, gains, b, s, states, chunk)

As in delta_prompt.py, blocks of a head's columns stay in the first-level cache over the chunk's tokens. The columns of a block are those
of x: a state is kept as [state_dim, head_dim] here, so that what writes into it and what reads it are broadcast, and nothing is added
up across lanes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from membound.kernels.cpu.linked import linked
from membound.kernels.cpu.matmul.linear import multiply, prepare
from membound.kernels.cpu.simd.arithmetic import add_scaled_tile, scale_tile
from membound.kernels.cpu.simd.vectors import splat
from membound.kernels.cpu.step.chunk import convolve_share, gate, part_of, parts_of
from membound.kernels.cpu.step.elementwise import rms_norm
from membound.kernels.cpu.step.parallel_rows import add_all, norm_all
from membound.kernels.cpu.step.state_block import (
    COLUMNS,
    advance,
    load_pair,
    read_block,
    store_pair,
    write_block,
)

_ONE = np.float32(1)


@linked
def mamba_chunk(
    FMT: Any, ACT: Any, M: Any, ROWS: Any, layer: Any, arena: Any, at: Any, gains: Any, b: Any, s: Any, states: Any, chunk: Any
) -> None:  # fmt: skip
    """Norm, products, the state and the output of a layer, added to b.x; its matrices begin at bytes at[0] and at[1]."""
    width = states.heads * states.head_dim
    wide = 2 * (width + states.groups * states.state_dim) + states.heads
    norm_all(M, b.x, gains.attention_in, layer, s, b.normed)
    prepare(FMT, ACT, M, b.normed, 0, s.hidden, s.hidden, b.scratch)
    multiply(FMT, ACT, M, arena, at[0], wide, s.hidden, b.scratch, b.heads, s.threads)
    stride = (wide + ROWS - 1) // ROWS * ROWS
    mamba_tokens(
        b.heads, stride, states.place[layer], states, s.sequences, chunk, np.float32(s.eps), b.attention, s.threads
    )  # fmt: skip
    prepare(FMT, ACT, M, b.attention, 0, width, width, b.scratch)
    multiply(FMT, ACT, M, arena, at[1], s.hidden, width, b.scratch, b.narrow, s.threads)
    add_all(
        M, b.x, b.narrow, (s.hidden + ROWS - 1) // ROWS * ROWS, gains.o_bias, gains.attention_out, layer, s
    )


@linked
def mamba_tokens(
    lines: Any, stride: Any, place: Any, states: Any, sequences: Any, chunk: Any, eps: Any, out: Any, threads: Any
) -> None:  # fmt: skip
    """out [rows, heads · head_dim]: what tokens make of their lines x, B, C, dt, z and of states number `place`, which they take on."""
    heads = states.heads
    channels = heads * states.head_dim + 2 * states.groups * states.state_dim
    if states.into_bias.shape[1]:
        _add_bias(lines, stride, states.into_bias[place], chunk.rows)
    _before(lines, stride, channels, place, states, sequences, chunk, threads)
    _walk_all(lines, stride, channels, place, states, sequences, chunk, out, threads)
    _behind(lines, stride, channels + heads, states.gain[place], states.groups, chunk.rows, eps, out)


@linked(parallel=True)
def _add_bias(lines: Any, stride: Any, bias: Any, count: Any) -> None:
    for t in prange(count):
        line = lines[np.intp(t) * stride :][: bias.size]
        for i in range(bias.size):
            line[i] += bias[i]


@linked(parallel=True)
def _before(
    lines: Any, stride: Any, channels: Any, place: Any, states: Any, sequences: Any, chunk: Any, threads: Any
) -> None:
    """What goes over states, in place of what comes out of the product."""
    for t in prange(threads):
        thread = np.intp(t)
        convolve_share(lines, stride, channels, place, states, sequences, chunk, thread, threads)
        for row in range(thread * chunk.rows // threads, (thread + 1) * chunk.rows // threads):
            _times(lines[row * stride + channels :], place, states)


@linked(fastmath=True)
def _times(line: Any, place: Any, states: Any) -> None:
    """A token's time step of each head."""
    for h in range(states.heads):
        step = line[h] + states.dt_bias[place, h]
        softplus = max(step, np.float32(0)) + np.log(_ONE + np.exp(-abs(step)))
        line[h] = max(softplus, np.float32(states.least_step))


@linked(parallel=True)
def _walk_all(
    lines: Any, stride: Any, channels: Any, place: Any, states: Any, sequences: Any, chunk: Any, out: Any, threads: Any
) -> None:  # fmt: skip
    """Every block's part of out [rows, heads · head_dim]."""
    blocks = (states.head_dim + COLUMNS - 1) // COLUMNS
    each = states.heads * blocks
    units = parts_of(chunk) * each
    for t in prange(threads):
        thread = np.intp(t)
        for unit in range(thread * units // threads, (thread + 1) * units // threads):
            part = part_of(chunk, unit // each)
            head, first = unit % each // blocks, unit % blocks * COLUMNS
            _walk(
                lines,
                stride,
                channels,
                head,
                first,
                place,
                place * sequences + part.sequence,
                part,
                states,
                out,
            )


@linked
def _walk(
    lines: Any, stride: Any, channels: Any, head: Any, first: Any, place: Any, sequence: Any, part: Any, states: Any, out: Any
) -> None:  # fmt: skip
    """A head's columns from number `first` on, whose state is number `sequence`, over a part's tokens."""
    dim, width, heads = states.state_dim, states.head_dim, states.heads
    write = heads * width + head // (heads // states.groups) * dim
    read, value = write + states.groups * dim, head * width + first
    at, columns = (sequence * heads + head) * dim * width, width - first
    decay, skip = states.decay[place, head], splat(states.skip[place, head])
    block = read_block(states.matrices_after, at, dim, width, first, part.token == 0)
    for row in range(part.row, part.row + part.rows):
        line = row * stride
        time = lines[line + channels + head]
        said, share = load_pair(lines, line + value, columns), splat(time)
        added = scale_tile(said, (share, share))
        answer = advance(block, dim, lines, line + write, line + read, np.exp(decay * time), added)
        answer = add_scaled_tile(answer, said, (skip, skip))
        store_pair(out, (row * heads + head) * width + first, columns, answer)
    write_block(block, states.matrices_after, at, dim, width, first)


@linked(parallel=True)
def _behind(
    lines: Any, stride: Any, gates: Any, gain: Any, groups: Any, count: Any, eps: Any, out: Any
) -> None:
    """The gate, which begins at column `gates` of a line, and the norm over each group's heads."""
    width, each = gain.size, gain.size // groups
    for t in prange(count):
        row = np.intp(t)
        line = out[row * width : (row + 1) * width]
        gate(line, 0, lines, row * stride + gates, width)
        for group in range(groups):
            part = line[group * each : (group + 1) * each]
            rms_norm(part, gain[group * each : (group + 1) * each], eps, part)
