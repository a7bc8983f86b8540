"""`membound cuda-build`: compiles kernels for a GPU on a machine without one, for a machine without a compiler.

membound cuda-build --out cubins && MEMBOUND_CUBINS=cubins membound run
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from membound.bench.commands.options import Debug, Json, number_within, print_json, print_text

if TYPE_CHECKING:
    from membound.bench.claim.arms import Arm
    from membound.kernels.work import Work


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
    report: Annotated[
        bool,
        typer.Option(
            "--report",
            help="Build nothing; print what machine code predicts: registers, occupancy, bytes in flight, share of a copy.",
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
    found = {work: catalogue.kernels_of(work, multiprocessors, target) for work in parsed}
    for work in [work for work, its in found.items() if works and not its]:
        reason = catalogue.unsupported_on(target, work)
        raise BackendUnavailable(f"{work.spec} has no CUDA kernels" + (f": {reason}" if reason else ""))
    if report:
        _report([work for work, its in found.items() if its], target, multiprocessors, as_json)
        return
    kernels = {kernel.name: kernel for kernel in catalogue.ceiling_kernels()}
    for work, its in found.items():
        kernels |= {kernel.name: kernel for kernel in its}
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


COLUMNS = {
    "kernel": ("kernel", "{}"),
    "streamed_bytes": ("MB", "{:.0f}"),
    "registers": ("registers", "{}"),
    "blocks_per_sm": ("blocks", "{}"),
    "occupancy": ("occupancy", "{:.0%}"),
    "in_flight_bytes": ("KB in flight", "{:.0f}"),
    "issue_cycles": ("issue", "{:.0f}"),
    "l1_wavefronts": ("L1", "{:.0f}"),
    "tensor_cycles": ("tensor", "{:.0f}"),
    "cycles": ("of cycles", "{:.0f}"),
    "share": ("share", "{:.2f}"),
}
"""Of a prediction: heading and format of each field."""
_SCALES = {"streamed_bytes": 1e-6, "in_flight_bytes": 1 / 1024}


def _report(works: Sequence[Work], target: str, multiprocessors: int, as_json: bool) -> None:
    """A line for each kernel that streams, for the H100 and the H200."""
    from membound.kernels.cuda.prediction import H100, H200, predictions

    machines = [replace(one, target=target, multiprocessors=multiprocessors) for one in (H100, H200)]
    found = [
        {"machine": machine.name, "work": work.spec} | asdict(prediction)
        for machine in machines
        for work in works
        for prediction in predictions(work, machine)
    ]
    if as_json:
        print_json(found)
        return
    for machine in machines:
        print_text(f"{machine.name}, a copy at {machine.copy_bytes_per_s / 1e12:.1f} TB/s expected\n")
        mine = {
            (one["kernel"], one["streamed_bytes"]): one for one in found if one["machine"] == machine.name
        }
        rows = [[heading for heading, _ in COLUMNS.values()]]
        rows += [
            [
                form.format(one[name] * _SCALES[name] if name in _SCALES else one[name])
                for name, (_, form) in COLUMNS.items()
            ]
            for one in mine.values()
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
            print_text("  ".join(cells) + "\n")
    print_text(
        "issue: cycles of a multiprocessor's four schedulers for each KB streamed; L1: wavefronts of its first-level cache and "
        "shared memory;\ntensor: cycles of its tensor cores, at mma.sync's rate; of cycles: in which the memory delivers that KB; "
        "share: of\nthe copy, predicted, not measured\n"
    )
