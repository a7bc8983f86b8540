"""The GPUs that predictions are made for, and what a multiprocessor of each compute capability holds and does.

>>> [machine.name for machine in machines("9.0a")]
['H100 SXM', 'H200']

Nothing of it is measured by this project. Bandwidths and peaks agree with the catalogue of devices (results/predict/hardware.toml).
"""

from __future__ import annotations

from dataclasses import dataclass

from membound.kernels.cuda.compile import parse_target

KB = 1024
COPY_SHARE = 0.9
"""Of the bandwidth on paper that a copy is expected to reach: torch's copies on an H100 and an H200 were published so."""


@dataclass(frozen=True, slots=True)
class Capability:
    """Of a multiprocessor: threads and blocks that it holds at once, shared memory for them, and the rate of its tensor cores.

    `multiply_adds`: of 16-bit numbers in a cycle, dense; `mma_share`: of these that mma.sync reaches.
    """

    threads: int
    most_blocks: int
    shared_bytes: int
    multiply_adds: int
    mma_share: float


CAPABILITIES = {
    (8, 0): Capability(2048, 32, 164 * KB, 1024, 1.0),
    (8, 9): Capability(1536, 24, 100 * KB, 512, 1.0),
    (9, 0): Capability(2048, 32, 228 * KB, 2048, 0.629),
    (10, 0): Capability(2048, 32, 228 * KB, 4096, 0.629 / 2),
}
"""Threads, blocks and shared memory, that which the system keeps of each block included: CUDA Programming Guide, Compute
Capabilities. Multiply-adds: the peaks of NVIDIA's data sheets divided by multiprocessors and clocks (312 TFLOP/s of an A100, 121
of an L4, 989 of an H100 at 1.83 GHz, 2250 of a B200 at 1.86 GHz). mma.sync reaches 62.9 % of that on an H100 on average
(Luo et al., Dissecting the NVIDIA Hopper Architecture, arXiv 2501.12084); all of it takes wgmma there, and tcgen05 on a B200,
for whose mma.sync no figure was found: the H100's rate is assumed. Before them mma.sync is what reaches the peak."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A GPU: multiprocessors, their clock, and what a copy is expected to reach. `device`: its id in the catalogue of devices."""

    name: str
    device: str
    target: str
    multiprocessors: int
    clock_hz: float
    copy_bytes_per_s: float

    @property
    def cycles_per_kb(self) -> float:
        """Cycles in which memory delivers a KB to each multiprocessor."""
        return KB * self.multiprocessors * self.clock_hz / self.copy_bytes_per_s

    @property
    def capability(self) -> Capability:
        """What its multiprocessors hold and do."""
        return CAPABILITIES[parse_target(self.target)[:2]]


A100 = Machine("A100 SXM 80 GB", "a100_sxm_80gb", "8.0", 108, 1.41e9, COPY_SHARE * 2.039e12)
"""NVIDIA A100 Tensor Core GPU Architecture, table 4; bandwidth of its data sheet."""
L4 = Machine("L4", "l4", "8.9", 58, 2.04e9, COPY_SHARE * 0.3e12)
"""Bandwidth of NVIDIA's data sheet; 58 multiprocessors of 128 lanes at 2.04 GHz are the 30.3 TFLOP/s of float32 that it names."""
H100 = Machine("H100 SXM", "h100_sxm", "9.0a", 132, 1.755e9, 3.0e12)
H200 = Machine("H200", "h200_sxm", "9.0a", 132, 1.755e9, 4.3e12)
"""A clock below the highest (1.98 GHz), as under load."""
B200 = Machine("B200", "b200_sxm", "10.0", 148, 1.98e9, COPY_SHARE * 7.67e12)
"""Multiprocessors, and bandwidth by bus and clock as the driver tells them: https://github.com/pytorch/ao/pull/4002. Clock:
https://hmc-tech.com/gpus/nvidia-b200-vs-nvidia-b100, a list."""
MACHINES = (A100, L4, H100, H200, B200)


def machines(target: str) -> tuple[Machine, ...]:
    """Those of a compute capability, whatever the letter behind it; none where no GPU of it is described. Raises CompileError."""
    wanted = parse_target(target)[:2]
    return tuple(machine for machine in MACHINES if parse_target(machine.target)[:2] == wanted)
