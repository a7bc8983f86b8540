"""The same targets under atheris, libFuzzer for Python: inputs that reach new lines of the package are kept and changed on.

Its seeds are those of the targets; half of its changes are libFuzzer's, the others those of `mutation` and `grammar`. It ends
at the first failure and leaves the input in build/fuzz. atheris has wheels for some Pythons only: pip install -e '.[fuzz]'
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

PACKAGES = (
    *("membound.results", "membound.bench.planning", "membound.bench.protocol", "membound.bench.run"),
    *(
        "membound.kernels.work",
        "membound.kernels.operations",
        "membound.kernels.steps",
        "membound.kernels.models",
    ),
    *("membound.kernels.weights.checkpoint", "membound.bench.commands", "membound.bench.cli"),
    *("membound.kernels.weights.stored", "membound.kernels.gguf_header", "membound.kernels.gguf_model"),
    *("membound.bench.serving", "membound.bench.fleet"),
    *("membound.kernels.onnx_file", "membound.kernels.onnx_step", "membound.kernels.routed_experts"),
)
"""What is instrumented: readers. Kernels are not: Numba compiles their bytecode."""
LONGEST = 1 << 16
"""Bytes of an input at most."""


def fuzz(name: str, executions: int, minutes: float, seed: int, kept: Path) -> int:
    """Run one target until a failure, that many executions, or time is up; the exit status is libFuzzer's."""
    try:
        import atheris
    except ModuleNotFoundError:
        print(
            "atheris is not installed: pip install -e '.[fuzz]' with a Python that it has wheels for",
            file=sys.stderr,
        )
        return 2
    with atheris.instrument_imports(include=list(PACKAGES)):
        from target import strict_warnings
        from targets import TARGETS
    if name not in TARGETS:
        print(f"no target {name!r}; there are {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    target, corpus = TARGETS[name], kept / f"{name}-corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(target.known):
        (corpus / f"seed-{number}").write_bytes(content)

    def change(data: bytes, most: int, number: int) -> bytes:
        rng = Random(number)
        return target.change(rng, data)[:most] if rng.randrange(2) else atheris.Mutate(data, most)

    options = {"runs": executions, "max_total_time": int(60 * minutes), "seed": seed, "max_len": LONGEST}
    options |= {"rss_limit_mb": 4096, "timeout": 20, "print_final_stats": 1}
    argv = [
        sys.argv[0],
        f"-artifact_prefix={kept}/{name}-",
        *(f"-{key}={value}" for key, value in options.items()),
    ]
    with strict_warnings():
        atheris.Setup([*argv, str(corpus)], target.check, custom_mutator=change)
        atheris.Fuzz()
    return 0
