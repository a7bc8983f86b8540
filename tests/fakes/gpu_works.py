"""The works that the tests on a real GPU run, and with those of the suite all that a GPU machine needs kernels for.

python tests/fakes/gpu_works.py            # a spec a line, for `membound cuda-build`
"""

from __future__ import annotations

from itertools import product

WEIGHTS = ("f32", "bf16", "f16", "int8", "int4g32", "int4g128")
CACHES = ("bf16", "f16", "int8", "fp8")

EVERY_BATCH = [
    f"linear:n=333,k=512,m={m},weight={weight}" for weight, m in product(WEIGHTS, (1, 2, 4, 5, 8, 16, 33, 64))
]
EVERY_SIZE = [
    f"linear:n={n},k={k},weight={weight}"
    for weight, (n, k) in product(WEIGHTS, ((1, 128), (4096, 4096), (28672, 1024)))
]
WIDE = [f"linear:n=4096,k=4096,m=16,weight={weight}" for weight in ("int8", "int4g32", "int4g128")]
"""Sizes of models, whose warps take twice the columns of integers a turn."""
LONGEST_RINGS = [
    *(f"linear:n=8448,k=512,m=33,weight={weight}" for weight in ("int8", "int4g32", "int4g128")),
    *(f"linear:n=8448,k=512,m=64,weight={weight}" for weight in ("int4g32", "int4g128")),
]
"""From 8448 rows of W on, a multiprocessor of an H100 has its 16 warps with the fewest a block. With 64 rows of x their rings have as
many stages as can be waited for; with 33 a warp takes two tiles of W."""
EVERY_CACHE = [
    f"attention:context={context},q_heads=8,kv_heads=2,batch={batch},kv={kv}{page}"
    for kv, page, (context, batch) in product(
        CACHES, ("", ",page=16", ",page=64"), ((1, 1), (63, 3), (1025, 2), (8192, 1))
    )
]
EVERY_RESIDUE = [f"attention:context={context},q_heads=8,kv_heads=2,page=16" for context in range(1024, 1041)]
EVERY_GROUPING = [
    f"attention:context=777,q_heads={q_heads},kv_heads={kv_heads},head_dim={head_dim}"
    for q_heads, kv_heads, head_dim in ((4, 4, 64), (16, 2, 128), (32, 1, 128), (6, 2, 64))
]
LATENT = [
    f"mla:context={context},q_heads={q_heads},batch=2,kv={kv}{page}"
    for kv, page, (context, q_heads) in product(
        CACHES, ("", ",page=64"), ((1, 16), (777, 3), (8192, 16), (300, 40))
    )
]
STEPS = [
    f"step:model=tiny,batch=2,context=100,weight={weight},kv={kv}"
    for kv, weight in product(("bf16", "int8"), ("bf16", "int8", "int4g128"))
]
GRAPH = "step:model=tiny,batch=1,context=65,weight=bf16,kv=bf16"
LARGE = "linear:n=16384,k=16384,weight=bf16"
EXTRA_ARITHMETIC = [
    "linear:n=28672,k=1024,weight=f32",
    "linear:n=333,k=512,weight=bf16",
    "attention:context=777,q_heads=8,kv_heads=8,kv=bf16",
    "attention:context=777,q_heads=8,kv_heads=2,kv=f16,page=64",
]
VICTIM = "linear:n=16384,k=4096,weight=bf16"
SPECS = [
    *(EVERY_BATCH + EVERY_SIZE + WIDE + LONGEST_RINGS),
    *(EVERY_CACHE + EVERY_RESIDUE + EVERY_GROUPING + LATENT),
    *(STEPS + EXTRA_ARITHMETIC + [GRAPH, LARGE, VICTIM]),
]
"""All of them."""

if __name__ == "__main__":
    from membound.bench.planning.suites import DEVICE_QUICK_WORKS, DEVICE_WORKS

    measured = [spec for spec in (*DEVICE_WORKS, *DEVICE_QUICK_WORKS) if not spec.startswith("prefill")]
    print("\n".join([*SPECS, *measured]))
