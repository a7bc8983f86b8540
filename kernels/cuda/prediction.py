"""What machine code lets expect: how near the memory's speed a kernel can come, before a GPU has run it.

>>> from membound.kernels.cuda.machine import H100
>>> from membound.kernels.work import parse
>>> round(predictions(parse("linear:n=28672,k=8192,m=4,weight=bf16"), H100)[0].share, 2)
0.97

A multiprocessor of an H100 gets 1 KB from memory every 79 cycles. What a kernel does for a KB in that time is counted in
its loop: instructions that its four schedulers issue, wavefronts of 128 bytes that pass its first-level cache and
shared memory, and cycles of its tensor cores. The nearer a count comes to 79, the less is left to hide. The model is ours and
crude: it ranks what to improve first and says what to compare a measurement with. Nothing of it is measured. Not counted: x that
comes from the second-level cache again for each block, and multiprocessors that have nothing to do while the last blocks end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from membound.kernels.cuda.attention.cache_append import Append, append_kernel
from membound.kernels.cuda.attention.cache_tiles import Tiles
from membound.kernels.cuda.attention.combine import combine_kernel, rounds
from membound.kernels.cuda.attention.decode import attention_kernel, plan_splits
from membound.kernels.cuda.attention.latent import latent_kernel, latent_splits, latent_tiles
from membound.kernels.cuda.catalogue import tiles_of
from membound.kernels.cuda.compile import WARP, CompileError, Kernel
from membound.kernels.cuda.device.machine_code import MachineCode, machine_code
from membound.kernels.cuda.instruments.stream import copy_kernel
from membound.kernels.cuda.machine import KB, Machine
from membound.kernels.cuda.matmul.linear import Plan, plan_linear
from membound.kernels.cuda.matmul.tensor import Tensor
from membound.kernels.cuda.step import elementwise
from membound.kernels.cuda.step.elementwise import activation_kernel, norm_kernel
from membound.kernels.cuda.step.products import fuses, plan_of, products_of
from membound.kernels.operations import LATENT_VALUE_DIM
from membound.kernels.weights.formats import FORMATS
from membound.kernels.work import DecodeAttention, LatentAttention, Linear, Step, Work

ROWS_OF_X = 8
SCHEDULERS = 4
WAVEFRONT_BYTES = 128
"""What first-level cache and shared memory move in a cycle (CUDA C++ Best Practices Guide, Shared Memory)."""
REGISTERS = 65536
"""Of a multiprocessor, whatever its compute capability (CUDA Programming Guide, Compute Capabilities)."""
PRODUCT = 16 * 8 * 16
"""Multiply-adds of one HMMA.16816."""
REGISTER_UNIT = 256
"""Registers are given to a warp in units of this many."""
LATENCY_S = 0.8e-6
"""From a load to its bytes with the memory busy; published figures for Hopper lie between 0.5 and 1 µs."""
START_S = 4e-6
"""What a launch takes beside its bytes: its first and last blocks."""
SHORTEST_S = 1.3e-6
"""A kernel in a CUDA graph on an H100 that does nothing (Hazy Research, No Bubbles); one that streams nothing takes a few
trips to memory besides."""
COPY_BYTES = 2 << 30
"""Read and written by a copy of the arrays by which the ceilings are measured."""
COPY_UNROLLS = (2, 4, 8)
"""Packets of sixteen bytes that a thread of the ceilings' copies moves."""
WHOLE = "all of the step"
SMOOTHNESS = 4
"""How much two loads of one time get into each other's way: (1 + u^4)^(1/4), 1.19 where they are equal."""
_STREAMED = re.compile(r"LDGSTS|LDG\..*LTC256B")


@dataclass(frozen=True, slots=True)
class Prediction:
    """Of one kernel in one work. Cycles and wavefronts are for each KB that it streams, `streamed_bytes` of a launch.

    `in_flight_bytes`: loads under way in a multiprocessor. `launches` of the work, `time_s` of each. `share`: of the copy's
    bandwidth, its start included. What streams nothing has zeros.
    """

    kernel: str
    streamed_bytes: float
    registers: int
    blocks_per_sm: int
    occupancy: float
    in_flight_bytes: int
    issue_cycles: float
    l1_wavefronts: float
    tensor_cycles: float
    cycles: float
    launches: int
    time_s: float
    share: float


def predictions(work: Work, machine: Machine) -> list[Prediction]:
    """Every kernel of a work that streams weights or cache; of a step every kernel, and all of it behind them.

    Raises CompileError without the compiler.
    """
    if isinstance(work, Step):
        return _step(work, machine)
    return [
        predict(kernel, size, machine, spread, start)
        for kernel, size, spread, start in _streams(work, machine)
    ]


def copy_predictions(machine: Machine) -> list[Prediction]:
    """The copies that are the ceiling of all others; the fastest of them counts."""
    return [predict_copy(copy_kernel(unroll), machine) for unroll in COPY_UNROLLS]


def predict(
    kernel: Kernel, streamed_bytes: float, machine: Machine, spread: float = 1.0, start_s: float = START_S
) -> Prediction:
    """What the kernel's machine code says of a launch that streams that much.

    `spread`: the share of a warp's lanes that read bytes of their own where they do not stream; others read the same ones.
    """
    code = machine_code(kernel, machine.target)
    loop = max(code.loops, key=_streamed_bytes)
    if any(len(other) < len(loop) and _contains(loop, other) for other in code.loops):
        raise CompileError(
            f"{kernel.name}: of a loop inside of the one that streams only one turn would be counted"
        )
    kb = _streamed_bytes(loop) / KB
    issue = len(loop) / SCHEDULERS / kb
    wavefronts = sum(_wavefronts(name, spread) for name, _ in loop) / kb
    tensor = cycles_of_product(machine) * sum(name.startswith("HMMA.16816") for name, _ in loop) / kb
    blocks = resident_blocks(kernel, code, machine)
    in_flight = int(_groups(code) * _streamed_bytes(loop)) * blocks * kernel.threads // WARP
    counts = (issue, wavefronts, tensor)
    return _told(kernel, streamed_bytes, machine, code, in_flight, counts, LATENCY_S, start_s)


def predict_copy(kernel: Kernel, machine: Machine) -> Prediction:
    """A copy has no loop: a thread loads all that it moves, and stores it. Half of the bytes are waited for."""
    code = machine_code(kernel, machine.target)
    moved = [name for name, _ in code.straight if re.match(r"(LDG|STG)\..*128", name)]
    kb = len(moved) * 16 * WARP / KB
    wavefronts = len(moved) * 16 * WARP / WAVEFRONT_BYTES / kb
    warps = resident_blocks(kernel, code, machine) * kernel.threads // WARP
    runs = (
        sum(1 for _ in names)
        for is_load, names in groupby(moved, lambda name: name.startswith("LDG"))
        if is_load
    )
    in_flight = max(runs) * 16 * WARP * warps
    counts = (len(code.straight) / SCHEDULERS / kb, wavefronts, 0.0)
    return _told(kernel, COPY_BYTES, machine, code, in_flight, counts, LATENCY_S / 2, START_S)


def _told(
    kernel: Kernel,
    streamed_bytes: float,
    machine: Machine,
    code: MachineCode,
    in_flight: int,
    counts: tuple[float, float, float],
    waiting_s: float,
    start_s: float,
) -> Prediction:
    """`counts`: issue cycles, wavefronts and tensor cycles a KB; `waiting_s`: how long a byte that is moved is under way."""
    loads = [count / machine.cycles_per_kb for count in counts]
    loads.append(waiting_s * machine.copy_bytes_per_s / machine.multiprocessors / in_flight)
    slower = (1 + max(loads) ** SMOOTHNESS) ** (1 / SMOOTHNESS)
    memory_s = streamed_bytes / machine.copy_bytes_per_s
    blocks = resident_blocks(kernel, code, machine)
    time_s = memory_s * slower + start_s
    return Prediction(
        kernel.name,
        streamed_bytes,
        code.registers,
        blocks,
        blocks * kernel.threads / machine.capability.threads,
        in_flight,
        *counts,
        machine.cycles_per_kb,
        1,
        time_s,
        memory_s / time_s,
    )


def cycles_of_product(machine: Machine) -> float:
    """Of a multiprocessor for one HMMA.16816."""
    return PRODUCT / (machine.capability.multiply_adds * machine.capability.mma_share)


def resident_blocks(kernel: Kernel, code: MachineCode, machine: Machine) -> int:
    """Blocks that fit a multiprocessor at once, by registers, shared memory, threads and their number."""
    holds = machine.capability
    warps = kernel.threads // WARP
    of_a_warp = -(-code.registers * WARP // REGISTER_UNIT) * REGISTER_UNIT
    by_shared = holds.shared_bytes // max(1, code.shared_bytes)
    return min(
        REGISTERS // (of_a_warp * warps), by_shared, holds.threads // kernel.threads, holds.most_blocks
    )


def _contains(loop: Sequence[tuple[str, str]], other: Sequence[tuple[str, str]]) -> bool:
    """Whether the instructions of one loop stand within another."""
    return any(loop[i : i + len(other)] == other for i in range(len(loop) - len(other) + 1))


def _streamed_bytes(loop: Sequence[tuple[str, str]]) -> int:
    """What a warp loads of weights or cache in a turn: copies to shared memory, and loads that pass by the first-level cache."""
    return sum(_width(name) * WARP for name, _ in loop if _STREAMED.match(name))


def _width(name: str) -> int:
    """Bytes a lane of a memory instruction."""
    return 16 if ".128" in name else 8 if ".64" in name else 4


def _wavefronts(name: str, spread: float) -> float:
    """Of a memory instruction of a whole warp; 0 for any other instruction."""
    if not re.match(r"(LDGSTS|LDG|LDS|STS)(\.|$)", name):
        return 0.0
    full = _width(name) * WARP / WAVEFRONT_BYTES
    return max(1.0, spread * full) if name.startswith("LDG.") and not _STREAMED.match(name) else full


def _groups(code: MachineCode) -> int:
    """Turns of the loop whose loads are under way at once: what a ring's wait leaves, or the turn itself."""
    waits = [operands for name, operands in code.instructions if name == "DEPBAR.LE"]
    left = [int(match[1], 16) for text in waits if (match := re.search(r"SB\d, 0x([0-9a-f]+)", text))]
    return max([1, *left])


def _streams(work: Work, machine: Machine) -> Iterator[tuple[Kernel, float, float, float]]:
    """Kernels that stream, the bytes of a launch, `spread`, and what a launch takes beside them."""
    if isinstance(work, Linear):
        plan = plan_linear(work.weight, work.n, work.k, work.m, machine.multiprocessors)
        size = float(work.traffic.weights_bytes + work.traffic.scales_bytes)
        yield plan.kernels[-1], size, _spread(plan), START_S
    elif isinstance(work, DecodeAttention):
        splits = plan_splits(tiles_of(work), work.batch, work.kv_heads, work.context, machine.multiprocessors)
        start = START_S + _combine_s(work.head_dim, splits)
        yield attention_kernel(tiles_of(work)), float(work.traffic.kv_read_bytes), 1.0, start
    elif isinstance(work, LatentAttention):
        tiles = latent_tiles(work.kv, work.q_heads, work.page)
        splits = latent_splits(tiles, work.batch, work.context, machine.multiprocessors)
        start = START_S + _combine_s(LATENT_VALUE_DIM, splits)
        yield latent_kernel(tiles), float(work.traffic.kv_read_bytes), 1.0, start


def _combine_s(head_dim: int, splits: int) -> float:
    """The second kernel of attention in parts: their denominators, and then the parts themselves, in rounds."""
    return SHORTEST_S + (1 + rounds(head_dim, splits)) * LATENCY_S if splits > 1 else 0.0


def _step(work: Step, machine: Machine) -> list[Prediction]:
    """Every kernel of a step with its launches, and the whole of it: the sum of their times, as in a graph."""
    model, bits = work.shape, FORMATS[work.weight].bits
    streaming = []
    for product in products_of(work):
        plan = plan_of(product, work, machine.multiprocessors)
        size = product.n * product.k * bits / 8
        streaming.append(
            replace(predict(plan.kernels[-1], size, machine, _spread(plan)), launches=product.count)
        )
        if plan.rounds:
            streaming.append(_small(plan.kernels[0], machine, product.count, 1))
    tiles = Tiles(work.kv, model.head_dim, model.q_heads // model.kv_heads)
    cached = work.traffic.kv_read_bytes / model.layers
    streaming.append(replace(predict(attention_kernel(tiles), cached, machine), launches=model.layers))
    splits = plan_splits(tiles, work.batch, model.kv_heads, work.context + 1, machine.multiprocessors)
    if splits > 1:
        trips = 1 + rounds(model.head_dim, splits)
        streaming.append(_small(combine_kernel(model.head_dim), machine, model.layers, trips))
    append = append_kernel(Append(work.kv, model.head_dim, model.qkv_bias, model.qk_norm))
    rest = [_small(elementwise.copy_kernel(), machine, 1, 1), _small(append, machine, model.layers, 1)]
    if not fuses(work):
        rest.append(_small(norm_kernel(), machine, 2 * model.layers + 1, 2))
        rest.append(_small(activation_kernel(model.gated), machine, model.layers, 1))
    return [*streaming, *rest, _sum([*streaming, *rest], machine)]


def _small(kernel: Kernel, machine: Machine, launches: int, trips: int) -> Prediction:
    """A kernel whose bytes are few: it takes its start and some trips to memory, one after another."""
    code = machine_code(kernel, machine.target)
    blocks = resident_blocks(kernel, code, machine)
    occupancy = blocks * kernel.threads / machine.capability.threads
    time_s = SHORTEST_S + trips * LATENCY_S
    nothing = (0, 0.0, 0.0, 0.0)
    return Prediction(
        kernel.name,
        0.0,
        code.registers,
        blocks,
        occupancy,
        *nothing,
        machine.cycles_per_kb,
        launches,
        time_s,
        0.0,
    )


def _sum(parts: Sequence[Prediction], machine: Machine) -> Prediction:
    """All launches of a step, one after another."""
    streamed = sum(part.launches * part.streamed_bytes for part in parts)
    time_s = sum(part.launches * part.time_s for part in parts)
    launches = sum(part.launches for part in parts)
    share = streamed / machine.copy_bytes_per_s / time_s
    return Prediction(
        WHOLE, streamed, 0, 0, 0.0, 0, 0.0, 0.0, 0.0, machine.cycles_per_kb, launches, time_s, share
    )


def _spread(plan: Plan) -> float:
    """Tensor cores take eight rows of x; with fewer, lanes load the last one again."""
    return min(ROWS_OF_X, plan.m) / ROWS_OF_X if isinstance(plan.variant, Tensor) else 1.0
