"""`membound cuda-build`: compiles kernels for a GPU on a machine without one, for a machine without a compiler.

membound cuda-build --out cubins && MEMBOUND_CUBINS=cubins membound run
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from membound.bench.commands.options import Debug, Json, number_within, print_json, print_text

if TYPE_CHECKING:
    from membound.bench.claim.arms import Arm


SCALES = (1, 2, 4, 8)
CACHE_BYTES = 50_000_000
"""The second-level cache of the H100 and the H200 (NVIDIA H100 Tensor Core GPU Architecture)."""


def cuda_build(
    works: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="WORK", help="Specs whose kernels are compiled; default: the suite for accelerators."
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Folder for the machine code.")] = Path(
        "cubins"
    ),
    target: Annotated[
        str,
        typer.Option(
            metavar="VERSION", help="Compute capability to compile for: 9.0a for H100 and H200, 8.0 for A100."
        ),
    ] = "9.0a",
    multiprocessors: Annotated[
        int,
        typer.Option(
            parser=number_within(1, 1024),
            metavar="N",
            help="Multiprocessors of the GPU, 1 to 1024; they decide between variants.",
        ),
    ] = 132,
    claim: Annotated[
        bool,
        typer.Option(
            "--claim",
            help="Also the kernels of `membound claim`, its instruments included, and of the works with extra arithmetic.",
        ),
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compile CUDA kernels without a GPU, for a machine without a compiler; name the folder in MEMBOUND_CUBINS there.

    The folder's manifest records the sources from which the code was compiled; a membound with other sources refuses it.
    """
    from membound.backends.api import BackendUnavailable
    from membound.bench.ceilings.backend import NULL_WORKS
    from membound.bench.planning.choice import split_works
    from membound.bench.planning.suites import DEVICE_QUICK_WORKS, DEVICE_WORKS
    from membound.kernels.work import parse

    parsed = [parse(spec) for spec in split_works(works or ()) or (*DEVICE_WORKS, *DEVICE_QUICK_WORKS)]
    try:
        from membound.kernels.cuda import catalogue
        from membound.kernels.cuda.device import cubins
    except ModuleNotFoundError as error:
        if str(error.name).startswith("membound"):
            raise
        raise BackendUnavailable(
            f"no kernel can be compiled: {error.name} is not installed; pip install 'membound[cuda-compile]'"
        ) from None
    kernels = {kernel.name: kernel for kernel in catalogue.ceiling_kernels()}
    for work in parsed:
        found = catalogue.kernels_of(work, multiprocessors, target)
        if works and not found:
            reason = catalogue.unsupported_on(target, work)
            raise BackendUnavailable(f"{work.spec} has no CUDA kernels" + (f": {reason}" if reason else ""))
        kernels |= {kernel.name: kernel for kernel in found}
        if claim:
            kernels |= {kernel.name: kernel for kernel in catalogue.loaded_kernels(work, multiprocessors)}
    for work in map(parse, NULL_WORKS):
        kernels |= {kernel.name: kernel for kernel in catalogue.kernels_of(work, multiprocessors, target)}
    if claim:
        kernels |= {kernel.name: kernel for kernel in catalogue.co_runner_kernels()}
    for arm in _claimed() if claim else ():
        of_work = catalogue.kernels_of if arm.extra_fmas is None else catalogue.loaded_kernels
        kernels |= {kernel.name: kernel for kernel in of_work(arm.parsed, multiprocessors)}
    paths = cubins.write(kernels.values(), target, out)
    if as_json:
        print_json([str(path) for path in paths])
    else:
        size = sum(path.stat().st_size for path in paths)
        print_text(f"{out}: {len(paths) - 1} kernels for compute capability {target}, {size} bytes\n")


def _claimed() -> Iterator[Arm]:
    """The arms of all experiments on any GPU. Doses are arguments of the kernels, so any ridge and any knee will do."""
    from membound.bench.claim.arms import arms_of
    from membound.bench.claim.scene import DEVICE_FLOATS, Scene
    from membound.results.claim.experiments import load_experiments

    for scale in SCALES:
        scene = Scene(CACHE_BYTES, ridge=1.0, co_runner_cores=1, scale=scale, floats=DEVICE_FLOATS)
        for experiment in load_experiments():
            yield from arms_of(experiment.id, scene)
