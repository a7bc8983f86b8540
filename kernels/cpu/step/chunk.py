"""A chunk of a prompt's rows as layers with states see it, in compiled code: parts of sequences, and the convolution over each.

    for number in range(parts_of(chunk)):
        part = part_of(chunk, number)

Rows of a prompt are the tokens of one sequence after another. All that a sequence's tokens leave for those behind them goes from chunk to
chunk: the state, and the tokens before that the convolution goes over.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from membound.kernels.cpu.attention.softcap import sigmoid
from membound.kernels.cpu.linked import linked
from membound.kernels.cpu.simd.arithmetic import fma, multiply
from membound.kernels.cpu.simd.features import LANES
from membound.kernels.cpu.simd.loads import load
from membound.kernels.cpu.simd.stores import store
from membound.kernels.cpu.simd.vectors import splat

_ONE = np.float32(1)


class Chunk(NamedTuple):
    """`rows` rows of a prompt from number `first` on, of sequences of `tokens` each."""

    first: int
    rows: int
    tokens: int


class Part(NamedTuple):
    """`rows` tokens of a sequence from number `token` on: rows of the chunk from `row` on."""

    sequence: int
    token: int
    row: int
    rows: int


@linked
def parts_of(chunk: Any) -> Any:
    """How many sequences have tokens in it."""
    return (chunk.first + chunk.rows - 1) // chunk.tokens - chunk.first // chunk.tokens + 1


@linked
def part_of(chunk: Any, number: Any) -> Any:
    """What is of its sequence `number`."""
    sequence = chunk.first // chunk.tokens + number
    begin = max(chunk.first, sequence * chunk.tokens)
    end = min(chunk.first + chunk.rows, (sequence + 1) * chunk.tokens)
    return Part(sequence, begin - sequence * chunk.tokens, begin - chunk.first, end - begin)


@linked
def convolve_share(
    lines: Any, stride: Any, channels: Any, place: Any, states: Any, sequences: Any, chunk: Any, thread: Any, threads: Any
) -> None:  # fmt: skip
    """A thread's share of columns, SiLU of the convolution over them in place; `states`: of either kind, number `place` of them."""
    strips = (channels + LANES - 1) // LANES
    begin, end = (
        thread * strips // threads * LANES,
        min((thread + 1) * strips // threads * LANES, channels),
    )
    for number in range(parts_of(chunk) if begin < end else 0):
        part = part_of(chunk, number)
        tail = (place * sequences + part.sequence) * (states.kernel - 1) * channels + begin
        before = _next_tail(lines, stride, begin, end - begin, channels, states, tail, part)
        for token in range(
            part.rows - 1, -1, -1
        ):  # a token's numbers are not needed once those behind it have met them
            at = (part.row + token) * stride + begin
            _convolve(lines, at, stride, token, before, begin, end - begin, channels, place, states)


@linked
def _next_tail(
    lines: Any, stride: Any, begin: Any, width: Any, channels: Any, states: Any, at: Any, part: Any
) -> Any:
    """The tokens before a part [kernel − 1, width], in place of which the last ones of the part are kept for the next."""
    tokens, tails = states.kernel - 1, states.tails_after
    before = np.zeros(tokens * width, np.float32)
    if part.token:
        for i in range(tokens):
            into, from_ = before[i * width :][:width], tails[at + i * channels :]
            for c in range(width):
                into[c] = from_[c]
    for i in range(tokens):
        into, token = tails[at + i * channels :][:width], part.rows - tokens + i
        if token >= 0:
            from_ = lines[(part.row + token) * stride + begin :]
        else:
            from_ = before[(tokens + token) * width :]
        for c in range(width):
            into[c] = from_[c]
    return before


@linked
def _convolve(
    lines: Any, at: Any, stride: Any, token: Any, before: Any, begin: Any, width: Any, channels: Any, place: Any, states: Any
) -> None:  # fmt: skip
    """Columns of one token from lines[at] on; the first of those that it meets may be `before` the part."""
    tokens, bias, weights = states.kernel - 1, states.conv_bias[place], states.conv[place]
    held, whole = max(tokens - token, 0), width // LANES * LANES
    for c in range(0, whole, LANES):
        total = load(bias, begin + c, "f32") if bias.size else splat(np.float32(0))
        for i in range(tokens + 1):
            if i < held:
                value = load(before, (token + i) * width + c, "f32")
            else:
                value = load(lines, at + (i - tokens) * stride + c, "f32")
            total = fma(load(weights, i * channels + begin + c, "f32"), value, total)
        store(lines, at + c, multiply(total, sigmoid(total)))
    for c in range(whole, width):
        rest = bias[begin + c] if bias.size else np.float32(0)
        for i in range(tokens + 1):
            x = before[(token + i) * width + c] if i < held else lines[at + (i - tokens) * stride + c]
            rest += weights[i * channels + begin + c] * x
        lines[at + c] = rest / (_ONE + np.exp(-rest))


@linked
def gate(x: Any, at: Any, gates: Any, gates_at: Any, width: Any) -> None:
    """`width` numbers of x from number `at` on times SiLU of those of `gates`."""
    whole = width // LANES * LANES
    for i in range(0, whole, LANES):
        value = load(gates, gates_at + i, "f32")
        store(x, at + i, multiply(load(x, at + i, "f32"), multiply(value, sigmoid(value))))
    for i in range(whole, width):
        rest = gates[gates_at + i]
        x[at + i] *= rest / (_ONE + np.exp(-rest))
