"""`membound cuda-build`: compiles kernels for a GPU on a machine without one, for a machine without a compiler.

membound cuda-build --out cubins && MEMBOUND_CUBINS=cubins membound run
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from membound.bench.commands.options import (
    Debug,
    Json,
    Markdown,
    number_within,
    one_format,
    print_json,
    print_text,
)
from membound.results.plain_text import in_one_line

if TYPE_CHECKING:
    from membound.bench.claim.arms import Arm
    from membound.kernels.cuda.machine import Machine
    from membound.kernels.cuda.prediction import Prediction
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
            metavar="VERSION",
            help="Compute capability to compile for: 9.0a for H100 and H200, 8.0 for A100, 8.9 for L4, 10.0 for B200.",
        ),
    ] = "9.0a",
    multiprocessors: Annotated[
        int | None,
        typer.Option(
            parser=number_within(1, 1024),
            metavar="N",
            help="Multiprocessors of the GPU, 1 to 1024; they decide between variants. Default: 132, of an A100 108, an L4 58, "
            "a B200 148.",
        ),
    ] = None,
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
            help="Build nothing; print what machine code predicts for the GPUs of --target: registers, occupancy, bytes in flight, "
            "share of a copy.",
        ),
    ] = False,
    as_json: Json = False,
    as_markdown: Markdown = False,
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

    one_format(as_json, as_markdown)
    if as_markdown and not report:
        raise typer.BadParameter("--markdown goes with --report")
    parsed = [parse(spec) for spec in split_works(works or ()) or (*DEVICE_WORKS, *DEVICE_QUICK_WORKS)]
    try:
        from membound.kernels.cuda import catalogue
        from membound.kernels.cuda.device import cubins
        from membound.kernels.cuda.machine import machines
    except ModuleNotFoundError as error:
        if str(error.name).startswith("membound"):
            raise
        raise BackendUnavailable(
            f"no kernel can be compiled: {error.name} is not installed; pip install 'membound[cuda-compile]'"
        ) from None
    known = machines(target)
    if multiprocessors is None:
        multiprocessors = known[0].multiprocessors if known else catalogue.H100_MULTIPROCESSORS
    found = {work: catalogue.kernels_of(work, multiprocessors, target) for work in parsed}
    for work in [work for work, its in found.items() if works and not its]:
        reason = catalogue.unsupported_on(target, work)
        raise BackendUnavailable(f"{work.spec} has no CUDA kernels" + (f": {reason}" if reason else ""))
    if report:
        if not known:
            raise BackendUnavailable(
                f"no GPU of compute capability {target} is described; the report knows {', '.join(_targets())}"
            )
        meant = [replace(one, target=target, multiprocessors=multiprocessors) for one in known]
        form = "json" if as_json else "markdown" if as_markdown else "text"
        _report([work for work, its in found.items() if its], meant, not works, form)
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
        if arm.extra_fmas is None:
            its = catalogue.kernels_of(arm.parsed, multiprocessors, target)
        else:
            its = catalogue.loaded_kernels(arm.parsed, multiprocessors)
        kernels |= {kernel.name: kernel for kernel in its}
    paths = cubins.write(kernels.values(), target, out)
    if as_json:
        print_json([str(path) for path in paths])
    else:
        size = sum(path.stat().st_size for path in paths)
        print_text(
            f"{in_one_line(out)}: {len(paths) - 1} kernels for compute capability {target}, {size} bytes\n"
        )


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
    "launches": ("launches", "{}"),
    "streamed_bytes": ("MB", "{:.0f}"),
    "registers": ("registers", "{}"),
    "blocks_per_sm": ("blocks", "{}"),
    "occupancy": ("occupancy", "{:.0%}"),
    "in_flight_bytes": ("KB in flight", "{:.0f}"),
    "issue_cycles": ("issue", "{:.0f}"),
    "l1_wavefronts": ("L1", "{:.0f}"),
    "tensor_cycles": ("tensor", "{:.0f}"),
    "time_s": ("µs", "{:.1f}"),
    "share": ("share", "{:.2f}"),
}
"""Of a prediction: heading and format of each field."""
_SCALES = {"streamed_bytes": 1e-6, "in_flight_bytes": 1 / 1024, "time_s": 1e6}
COPY = "copy"
"""What the ceilings' copies are called in the place of a work."""


def _targets() -> tuple[str, ...]:
    from membound.kernels.cuda.machine import MACHINES

    return tuple(dict.fromkeys(machine.target for machine in MACHINES))


def _report(works: Sequence[Work], machines: Sequence[Machine], with_copy: bool, form: str) -> None:
    """For each machine and each work its kernels that stream; of a step all of them and the whole."""
    from membound.kernels.cuda.prediction import copy_predictions, predictions

    found = {}
    for machine in machines:
        told = {COPY: copy_predictions(machine)} if with_copy else {}
        found[machine] = told | {work.spec: predictions(work, machine) for work in works}
    if form == "json":
        print_json(
            [
                {"machine": machine.name, "work": work} | asdict(one)
                for machine, told in found.items()
                for work, its in told.items()
                for one in its
            ]
        )
        return
    for machine, told in found.items():
        print_text(
            f"{machine.name}, a copy at {machine.copy_bytes_per_s / 1e12:.2f} TB/s expected: "
            f"{machine.cycles_per_kb:.0f} cycles a KB\n"
        )
        (_print_markdown if form == "markdown" else _print_table)(told)
    if form == "markdown":
        return
    print_text(
        "issue: cycles of a multiprocessor's four schedulers for each KB streamed; L1: wavefronts of its first-level cache and "
        "shared memory;\ntensor: cycles of its tensor cores, at mma.sync's rate; µs: of a launch; share: of the copy, predicted, "
        f"not measured.\nOther GPUs by --target: {', '.join(_targets())}\n"
    )


def _print_table(told: Mapping[str, Sequence[Prediction]]) -> None:
    """Headings, and below each work a line for each of its kernels; a dash for what is nothing there."""
    rows = {work: [_cells(one) for one in its] for work, its in told.items()}
    headings = [heading for heading, _ in COLUMNS.values()]
    widths = [max(map(len, column)) for column in zip(headings, *chain(*rows.values()), strict=True)]
    for work, its in {"": [headings], **rows}.items():
        if work:
            print_text(f"{work}\n")
        for row in its:
            rest = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
            print_text("  ".join([row[0].ljust(widths[0]), *rest]) + "\n")


def _print_markdown(told: Mapping[str, Sequence[Prediction]]) -> None:
    """The same, with each work before the first of its kernels."""
    from membound.results.views.markdown import LEFT, RIGHT, table_lines

    headings = ["work", *(heading for heading, _ in COLUMNS.values())]
    rows = [
        [f"`{work}`" if not number else "", *_cells(one)]
        for work, its in told.items()
        for number, one in enumerate(its)
    ]
    sides = [LEFT, LEFT, *[RIGHT] * (len(headings) - 2)]
    print_text("\n".join(["", *table_lines(headings, sides, rows), ""]))


def _cells(one: Prediction) -> list[str]:
    values = asdict(one)
    return [
        form.format(values[name] * _SCALES.get(name, 1)) if values[name] else "-"
        for name, (_, form) in COLUMNS.items()
    ]
