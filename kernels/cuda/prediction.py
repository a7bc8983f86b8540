"""What machine code lets expect: how near the memory's speed a kernel can come, before a GPU has run it.

>>> from membound.kernels.work import parse
>>> predictions(parse("linear:n=28672,k=8192,m=4,weight=bf16"), H100)[0].share
0.93

A multiprocessor of an H100 gets 1 KB from memory every 79 cycles. What a kernel does for a KB in that time is counted in
its loop: instructions that its four schedulers issue, wavefronts of 128 bytes that pass its first-level cache and
shared memory, and cycles of its tensor cores. The nearer a count comes to 79, the less is left to hide. The model is ours and
crude: it ranks what to improve first and says what to compare a measurement with. Nothing of it is measured. Not counted: x that
comes from the second-level cache again for each block, and multiprocessors that have nothing to do while the last blocks end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from membound.kernels.cuda.attention.decode import attention_kernel
from membound.kernels.cuda.attention.latent import latent_kernel, latent_tiles
from membound.kernels.cuda.catalogue import kernels_of, matrices_of, tiles_of
from membound.kernels.cuda.compile import WARP, CompileError, Kernel
from membound.kernels.cuda.device.machine_code import MachineCode, machine_code
from membound.kernels.cuda.matmul.linear import Plan, plan_linear
from membound.kernels.cuda.matmul.tensor import Tensor
from membound.kernels.weights.formats import FORMATS
from membound.kernels.work import DecodeAttention, LatentAttention, Linear, Step, Work

KB = 1024
ROWS_OF_X = 8
SCHEDULERS = 4
WAVEFRONT_BYTES = 128
"""What first-level cache and shared memory move in a cycle (CUDA C++ Best Practices Guide, Shared Memory)."""
REGISTERS, THREADS, MOST_BLOCKS = 65536, 2048, 32
"""Of a multiprocessor (CUDA C++ Programming Guide, Technical Specifications, 8.0 and 9.0)."""
SHARED_BYTES = 228 << 10
"""For all blocks of a multiprocessor, with the KB that the system keeps of each block (same table, 9.0)."""
TENSOR_CYCLES = 1 / 0.629
"""Of a multiprocessor for one HMMA.16816: its 16 · 8 · 16 multiply-adds are what the tensor cores of an H100 do in a cycle (989
TFLOP/s, 132 multiprocessors, 1.83 GHz: NVIDIA H100 Tensor Core GPU Architecture, table 2), but mma.sync reaches 62.9 % of that on
average (Luo et al., Dissecting the NVIDIA Hopper Architecture, arXiv 2501.12084); all of it takes wgmma."""
REGISTER_UNIT = 256
"""Registers are given to a warp in units of this many."""
LATENCY_S = 0.8e-6
"""From a load to its bytes with the memory busy; published figures for Hopper lie between 0.5 and 1 µs."""
START_S, COMBINE_S = 4e-6, 3e-6
"""What a launch takes beside its bytes (first and last blocks), and a kernel that adds up parts behind it."""
SMOOTHNESS = 4
"""How much two loads of one time get into each other's way: (1 + u^4)^(1/4), 1.19 where they are equal."""
_STREAMED = re.compile(r"LDGSTS|LDG\..*LTC256B")


@dataclass(frozen=True, slots=True)
class Machine:
    """A GPU: multiprocessors, their clock, and what a copy is expected to reach."""

    name: str
    target: str
    multiprocessors: int
    clock_hz: float
    copy_bytes_per_s: float

    @property
    def cycles_per_kb(self) -> float:
        """Cycles in which memory delivers a KB to each multiprocessor."""
        return KB * self.multiprocessors * self.clock_hz / self.copy_bytes_per_s


H100 = Machine("H100 SXM", "9.0a", 132, 1.755e9, 3.0e12)
H200 = Machine("H200", "9.0a", 132, 1.755e9, 4.3e12)
"""Boost clocks of NVIDIA's data sheets; copies as torch's were published (90 % of the data sheets)."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Of one kernel in one work. Cycles and wavefronts are for each KB that it streams, `streamed_bytes` of a launch.

    `share`: of the copy's bandwidth, its start included.
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
    share: float


def predictions(work: Work, machine: Machine) -> list[Prediction]:
    """Every kernel of a work that streams weights or cache, once. Raises CompileError without the compiler."""
    combined = any(kernel.name.startswith("combine") for kernel in kernels_of(work, machine.multiprocessors))
    return [
        predict(kernel, size, machine, spread, START_S + (COMBINE_S if combined and attends else 0.0))
        for kernel, size, spread, attends in dict.fromkeys(_streams(work, machine.multiprocessors))
    ]


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
    tensor = TENSOR_CYCLES * sum(name.startswith("HMMA.16816") for name, _ in loop) / kb
    blocks = resident_blocks(kernel, code)
    in_flight = int(_groups(code) * _streamed_bytes(loop)) * blocks * kernel.threads // WARP
    loads = (
        issue / machine.cycles_per_kb,
        wavefronts / machine.cycles_per_kb,
        tensor / machine.cycles_per_kb,
        LATENCY_S * machine.copy_bytes_per_s / machine.multiprocessors / in_flight,
    )
    slower = (1 + max(loads) ** SMOOTHNESS) ** (1 / SMOOTHNESS)
    memory_s = streamed_bytes / machine.copy_bytes_per_s
    return Prediction(
        kernel.name,
        streamed_bytes,
        code.registers,
        blocks,
        blocks * kernel.threads / THREADS,
        in_flight,
        issue,
        wavefronts,
        tensor,
        machine.cycles_per_kb,
        memory_s / (memory_s * slower + start_s),
    )


def resident_blocks(kernel: Kernel, code: MachineCode) -> int:
    """Blocks that fit a multiprocessor at once, by registers, shared memory, threads and their number."""
    warps = kernel.threads // WARP
    of_a_warp = -(-code.registers * WARP // REGISTER_UNIT) * REGISTER_UNIT
    by_shared = SHARED_BYTES // max(1, code.shared_bytes)
    return min(REGISTERS // (of_a_warp * warps), by_shared, THREADS // kernel.threads, MOST_BLOCKS)


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


def _streams(work: Work, multiprocessors: int) -> Iterator[tuple[Kernel, float, float, bool]]:
    """Kernels that stream, the bytes of a launch, `spread`, and whether parts are put together behind it."""
    if isinstance(work, Linear):
        plan = plan_linear(work.weight, work.n, work.k, work.m, multiprocessors)
        size = float(work.traffic.weights_bytes + work.traffic.scales_bytes)
        yield plan.kernels[-1], size, _spread(plan), False
    elif isinstance(work, DecodeAttention):
        yield attention_kernel(tiles_of(work)), float(work.traffic.kv_read_bytes), 1.0, True
    elif isinstance(work, LatentAttention):
        tiles = latent_tiles(work.kv, work.q_heads, work.page)
        yield latent_kernel(tiles), float(work.traffic.kv_read_bytes), 1.0, True
    elif isinstance(work, Step):
        bits = FORMATS[work.weight].bits
        for n, k, added in matrices_of(work):
            plan = plan_linear(work.weight, n, k, work.batch, multiprocessors, added)
            yield plan.kernels[-1], n * k * bits / 8, _spread(plan), False


def _spread(plan: Plan) -> float:
    """Tensor cores take eight rows of x; with fewer, lanes load the last one again."""
    return min(ROWS_OF_X, plan.m) / ROWS_OF_X if isinstance(plan.variant, Tensor) else 1.0
