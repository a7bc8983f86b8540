"""Worlds whose law is known, and what each experiment would measure in them.

>>> world = World(law=memory_bound)
>>> free_compute_in(world, seed=1)      # observations of experiment 1, with noise

A law gives seconds from operations, bytes and FLOPs. The ceilings that observations carry are those of
`READ` and `PEAK` in every world: a wrong world is one whose times do not obey what was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from observations import seen

from membound.results.claim.observation import Observation

READ = 30e9
"""Bytes a second."""
PEAK = 345e9
"""FLOPs a second; the ridge is at 11.5 FLOPs a byte."""
CACHE = 100e6
LAUNCH_S = 3e-6
QUERIES = (1, 2, 4, 8)
CONTEXTS = (1024, 2048, 4096, 8192)

Law = Callable[[float, float, float], float]


def memory_bound(operations: float, moved: float, flops: float) -> float:
    """As the claim has it: whichever of bytes and FLOPs takes longer, and little overhead."""
    return LAUNCH_S * operations + max(moved / READ, flops / PEAK)


def compute_bound(operations: float, moved: float, flops: float) -> float:
    """The arithmetic is 40 times slower than was measured."""
    return LAUNCH_S * operations + max(moved / READ, 40 * flops / PEAK)


def launch_bound(operations: float, moved: float, flops: float) -> float:
    """Launching takes longer than anything else."""
    return 0.3 * operations + max(moved / READ, flops / PEAK)


def mixed(operations: float, moved: float, flops: float) -> float:
    """Bytes and FLOPs do not overlap."""
    return LAUNCH_S * operations + moved / READ + flops / PEAK


def starved(operations: float, moved: float, flops: float) -> float:
    """Memory is 1000 times slower than was measured."""
    return LAUNCH_S * operations + max(1000 * moved / READ, flops / PEAK)


def unbent(operations: float, moved: float, flops: float) -> float:
    """The arithmetic is 40 times faster than was measured."""
    return LAUNCH_S * operations + max(moved / READ, flops / (40 * PEAK))


@dataclass(frozen=True, slots=True)
class World:
    """A law, and how far its measurements scatter: between processes, and within one (both in ln t)."""

    law: Law = memory_bound
    between: float = 0.03
    within: float = 0.01
    processes: int = 5

    def times(self, seed: int, cases: Sequence[tuple[float, float, float]]) -> np.ndarray:
        """Seconds [process, case] of cases (operations, bytes, FLOPs)."""
        exact = np.log([self.law(*case) for case in cases])
        return self.scattered(seed, exact)

    def scattered(self, seed: int, ln_time: np.ndarray) -> np.ndarray:
        """Seconds [process, case] around exact ln t [case]."""
        rng = np.random.default_rng(seed)
        level = rng.normal(0, self.between, (self.processes, 1))
        return np.exp(ln_time + level + rng.normal(0, self.within, (self.processes, len(ln_time))))


@dataclass(frozen=True, slots=True)
class Dose:
    """One point of an experiment."""

    arm: str
    factors: dict[str, float | str]
    moved: float
    flops: float
    operations: float = 1.0
    work: str = "linear:n=4096,k=4096"


def measured(
    number: int, world: World, seed: int, doses: Sequence[Dose], law: np.ndarray | None = None
) -> list[Observation]:
    """Observations of these doses; `law` is ln t of each where the world's own law does not know the dose."""
    if law is None:
        times = world.times(seed, [(d.operations, d.moved, d.flops) for d in doses])
    else:
        times = world.scattered(seed, law)
    return [
        seen(
            float(times[process, at]),
            experiment=number,
            arm=dose.arm,
            replicate=process,
            factors=dose.factors,
            work=dose.work,
            bytes=int(dose.moved),
            flops=int(dose.flops),
            read_bytes_per_s=READ,
            compute_flops_per_s=PEAK,
        )
        for process in range(world.processes)
        for at, dose in enumerate(doses)
    ]


def free_compute_in(world: World, seed: int) -> list[Observation]:
    """1: a float32 matrix of 235 MB; the ridge is at k = 22."""
    weights = 58.7e6
    ks = (0, 1, 2, 4, 8, 11, 16, 24, 32, 48)
    return measured(
        1, world, seed, [Dose("linear_f32", {"k": k}, 4 * weights, 2 * weights * (1 + k)) for k in ks]
    )


def byte_dose_in(world: World, seed: int) -> list[Observation]:
    """2: 32 query heads over 1 to 32 KV heads of 8192 tokens in bfloat16."""
    heads = (1, 2, 4, 8, 16, 32)
    doses = [
        Dose("kv_heads", {"kv_heads": h}, 8192 * h * 2 * 128 * 2 + 32768, 4 * 8192 * 32 * 128) for h in heads
    ]
    return measured(2, world, seed, doses)


def flop_dose_in(world: World, seed: int) -> list[Observation]:
    """3: 1 to 128 rows of x; the ridge is at m = 23."""
    weights = 58.7e6
    return measured(
        3,
        world,
        seed,
        [
            Dose("linear_f32", {"m": m}, 4 * weights + 73e3 * m, 2 * weights * m)
            for m in (1, 2, 4, 8, 16, 32, 64, 128)
        ],
    )


def theft_in(world: World, seed: int, by_bandwidth: float, by_fma: float) -> list[Observation]:
    """4: thieves that slow the victim by these shares at their whole core."""
    doses, law = [], []
    for duty in (0.25, 0.5, 1.0):
        for arm, slows in (("idle", 0.0), ("bandwidth", by_bandwidth), ("fma", by_fma)):
            stolen = {
                "stolen_bytes_per_s": 15e9 * duty if arm == "bandwidth" else 0.0,
                "stolen_flops_per_s": 170e9 * duty if arm == "fma" else 0.0,
            }
            doses.append(Dose(arm, {"duty": duty, "machine_read_bytes_per_s": READ} | stolen, 235e6, 117e6))
            law.append(np.log(8e-3 * (1 + slows * duty)))
    return measured(4, world, seed, doses, np.array(law))


def residency_in(world: World, seed: int, gain: float) -> list[Observation]:
    """5: sets within the cache are read faster by this share."""
    sizes = np.array([1 / 128, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0])
    doses = [
        Dose("linear_f32", {"working_set_bytes": s * CACHE, "cache_bytes": CACHE}, 25e6, 12e6) for s in sizes
    ]
    law = np.log(25e6 / READ) - np.log1p(gain) * (sizes <= 1.0)
    return measured(5, world, seed, doses, law)


def linear_knee_in(world: World, seed: int) -> list[Observation]:
    """6: linear products at batch 1 to 256; the ceilings predict a knee at 23."""
    weights = 58.7e6
    return measured(
        6,
        world,
        seed,
        [
            Dose("linear", {"batch": b}, 4 * weights + 73e3 * b, 2 * weights * b)
            for b in (1, 2, 4, 8, 16, 24, 32, 48, 64, 128)
        ],
    )


def attention_knee_in(world: World, seed: int, query_heads: int = 32) -> list[Observation]:
    """6: attention with 8 KV heads in bfloat16 at batch 1 to 32."""
    return measured(
        6,
        world,
        seed,
        [
            Dose("attention", {"batch": b}, b * 8192 * 8 * 2 * 128 * 2, b * 4 * 8192 * query_heads * 128)
            for b in (1, 2, 4, 8, 16, 32)
        ],
    )


def suite_in(world: World, seed: int) -> list[Observation]:
    """7: small and large products, a step of many operations, a prompt."""
    shapes = {
        "linear:n=512,k=512": (1, 1.05e6, 0.52e6),
        "linear:n=4096,k=4096": (1, 67e6, 33e6),
        "linear:n=14336,k=4096": (1, 235e6, 117e6),
        "linear:n=4096,k=4096,m=64": (1, 69e6, 2.1e9),
        "attention:context=8192": (1, 67e6, 134e6),
        "step:model=tiny": (20, 5.5e6, 2.7e6),
        "step:model=small": (150, 2.5e9, 2.6e9),
        "prefill:model=small": (150, 2.6e9, 1.3e12),
    }
    doses = [
        Dose("plain", {"operations": o}, b, f, operations=o, work=work) for work, (o, b, f) in shapes.items()
    ]
    return measured(7, world, seed, doses)


def clocks_in(world: World, seed: int, memory: float, core: float) -> list[Observation]:
    """8: clocks that wander by themselves, with these elasticities of time."""
    rng = np.random.default_rng(seed + 1000)
    found = []
    for process in range(world.processes):
        clock = rng.uniform(-0.15, 0.15, 2)
        factors = {"memory_clock_hz": 2e9 * np.exp(clock[0]), "core_clock_hz": 1e9 * np.exp(clock[1])}
        exact = np.array([np.log(5e-3) + memory * clock[0] + core * clock[1]])
        one = World(world.law, 0.0, world.within, 1)
        (single,) = measured(8, one, seed * 100 + process, [Dose("observed", factors, 235e6, 117e6)], exact)
        found.append(seen(single.seconds, experiment=8, arm="observed", replicate=process, factors=factors))
    return found


def pair_in(world: World, seed: int, decode: float, prefill: float) -> list[Observation]:
    """9: two machines with a bandwidth ratio of 1.4 and these speed-ups."""
    found = []
    for machine, read, sped in (("slow", 3.0e12, 0.0), ("fast", 4.2e12, 1.0)):
        factors = {"machine": machine, "read_bytes_per_s": read}
        doses = [
            Dose("decode", factors, 1e9, 1e9, work="linear:n=1,k=1"),
            Dose("decode", factors, 1e9, 1e9, work="step:model=small"),
            Dose("prefill", factors, 1e9, 1e13, work="prefill:model=small"),
        ]
        law = np.log([1e-3, 7e-3, 5e-2]) - sped * np.log([decode, decode, prefill])
        found += measured(9, world, seed * 2 + int(sped), doses, law)
    return found


def expert_dose_in(world: World, seed: int) -> list[Observation]:
    """11: 64 bfloat16 experts of 3.1 MB, of which a batch of 8 takes 8 to 64."""
    doses = [
        Dose("experts_bf16", {"distinct": distinct}, 3.15e6 * distinct + 0.3e6, 202e6)
        for distinct in (8, 16, 32, 64)
    ]
    return measured(11, world, seed, doses)


def dense_queries_in(world: World, seed: int) -> list[Observation]:
    """12: a float32 matrix of 235 MB and 1 to 8 rows."""
    weights = 58.7e6
    doses = [Dose("dense", {"queries": s}, 4 * weights + 73e3 * s, 2 * weights * s) for s in QUERIES]
    return measured(12, world, seed, doses)


def attention_queries_in(world: World, seed: int) -> list[Observation]:
    """12: 1 to 8 queries of 32 heads over 8 KV heads of 8192 tokens in bfloat16; the ridge is at s = 3."""
    doses = [
        Dose("attention", {"queries": s}, 8192 * 8 * 2 * 128 * 2 + 33e3 * s, s * 4 * 8192 * 32 * 128)
        for s in QUERIES
    ]
    return measured(12, world, seed, doses)


def expert_queries_in(world: World, seed: int) -> list[Observation]:
    """12: 64 float32 experts of 6.3 MB, of which 1 to 8 rows take 8 to 42."""
    doses = [
        Dose("experts", {"queries": s}, 6.3e6 * distinct, 25.2e6 * s)
        for s, distinct in zip(QUERIES, (8, 15, 26, 42), strict=True)
    ]
    return measured(12, world, seed, doses)


def _contexts(arm: str, sizes: Sequence[tuple[float, float, float, float]]) -> list[Dose]:
    """Doses of experiment 13 from (context, bytes, FLOPs, bytes if every token were read)."""
    return [
        Dose(arm, {"context": context, "whole_bytes": whole}, moved, flops)
        for context, moved, flops, whole in sizes
    ]


HEADS = _contexts("heads", [(c, 67e6, c * 16384.0, c * 32768.0) for c in (2048, 4096, 8192, 16384)])
"""KV heads shrink from 32 to 4: bytes stay, FLOPs grow from half a FLOP a byte to four."""
STATES = _contexts(
    "delta", [(c, 139e6 + 8192.0 * c, 383e6 + 65536.0 * c, 89e6 + 32768.0 * c) for c in CONTEXTS]
)
"""Three layers with a state, one with a cache."""
WINDOWS = _contexts("window", [(c, 125e6, 247e6, 57e6 + 65536.0 * c) for c in CONTEXTS])


def shared_heads_in(world: World, seed: int) -> list[Observation]:
    """13: attention with fewer KV heads the longer the context is."""
    return measured(13, world, seed, HEADS)


def states_in(world: World, seed: int) -> list[Observation]:
    """13: a step most of whose layers hold a state."""
    return measured(13, world, seed, STATES)


def windows_in(world: World, seed: int) -> list[Observation]:
    """13: a step whose layers see a window."""
    return measured(13, world, seed, WINDOWS)


def read_whole_in(world: World, seed: int, doses: Sequence[Dose]) -> list[Observation]:
    """13: every token is read, whatever is counted: times are those of `whole_bytes`."""
    law = np.log([world.law(d.operations, float(d.factors["whole_bytes"]), d.flops) for d in doses])
    return measured(13, world, seed, doses, law)


def short_contexts_in(world: World, seed: int) -> list[Observation]:
    """13: contexts at which whole caches are small beside the matrices."""
    return measured(
        13,
        world,
        seed,
        [replace(d, factors=d.factors | {"whole_bytes": 125e6 + n}) for n, d in enumerate(WINDOWS)],
    )


def counterexamples_in(world: World, seed: int) -> list[Observation]:
    """10: prompts of 128 to 512 tokens."""
    doses = [
        Dose("prefill", {"dose": tokens}, 2.5e9 + 1e5 * tokens, 2.5e9 * tokens) for tokens in (128, 256, 512)
    ]
    return measured(10, world, seed, doses)
