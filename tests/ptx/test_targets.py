"""Every kernel assembles for every GPU on which it claims to run: an instruction that came later is an error of the assembler.

`membound cuda-build --target` says which kernels these are; what it would compile anew is what the executor runs, assembled for
that target.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import test_kernels
from cuda.bindings.nvjitlink import nvJitLinkError
from executor.gpu import TARGET, text_of

from membound.bench.cli import main
from membound.kernels.cuda import catalogue
from membound.kernels.cuda.compile import FP8_TARGET, Kernel, compile_cubin, parse_target
from membound.kernels.cuda.device import cubins
from membound.kernels.cuda.matmul.linear import plan_linear
from membound.kernels.models import MODELS
from membound.kernels.work import parse

pytestmark = pytest.mark.cuda_compile

TARGETS = ("8.0", "8.6", "8.9", "9.0a", "10.0", "12.0")
"""What assembles for 10.0 does for 10.0a as well, which is what a GPU of that capability is compiled for."""


def claimed(target: str, folder: Path) -> list[Kernel]:
    """What the command builds for that target, of the works that the executor runs; and extra arithmetic, and co-runners."""
    kernels = {k.name: k for k in catalogue.co_runner_kernels()}

    def build(kernel: Kernel, asked: str) -> bytes:
        assert asked == target
        kernels[kernel.name] = kernel
        return b""

    with pytest.MonkeyPatch.context() as patch:
        for model in (test_kernels.SMALL, test_kernels.ODD):
            patch.setitem(MODELS, model.name, model)
        patch.setattr(cubins, "compile_cubin", build)
        for multiprocessors in sorted({number for _, number in test_kernels.SPECS}):
            works = [parse(spec) for spec, number in test_kernels.SPECS if number == multiprocessors]
            able = [work for work in works if not catalogue.unsupported_on(target, work)]
            options = ("--target", target, "--multiprocessors", str(multiprocessors), "--out", str(folder))
            with pytest.raises(SystemExit) as ended:
                main(["cuda-build", *(work.spec for work in able), *options])
            assert ended.value.code == 0
            for work in able:
                kernels |= {k.name: k for k in catalogue.loaded_kernels(work, multiprocessors)}
    return list(kernels.values())


def assemble(text: str, target: str) -> None:
    """As nvJitLink does it for a GPU of that capability. Raises what it says is wrong."""
    from cuda.core import Linker, LinkerOptions, ObjectCode

    major, minor, suffix = parse_target(target)
    architecture = f"sm_{major}{minor}{suffix}"
    assert text.count(".target sm_90a") == 1
    code = ObjectCode.from_ptx(text.replace(".target sm_90a", f".target {architecture}").encode())
    Linker(code, options=LinkerOptions(arch=architecture)).link("cubin")


@pytest.mark.parametrize("target", TARGETS)
def test_every_kernel_that_claims_a_target_assembles_for_it(target: str, tmp_path: Path) -> None:
    failed = {}
    kernels = claimed(target, tmp_path)
    for kernel in kernels:
        try:
            assemble(text_of(kernel), target)
        except nvJitLinkError as error:
            failed[kernel.name] = str(error)
    assert not failed
    assert len(kernels) > 40
    assert any("fp8" in kernel.name for kernel in kernels) is (parse_target(target)[:2] >= FP8_TARGET)


def test_the_assembler_refuses_what_came_later(tmp_path: Path) -> None:
    """What is left out below 8.9 would not assemble there; so it is left out for a reason, and the check above can fail."""
    fp8 = [kernel for kernel in claimed(TARGET, tmp_path) if "fp8" in kernel.name]
    assert len(fp8) >= 4
    for kernel in fp8:
        with pytest.raises(nvJitLinkError, match=r"requires \.target sm_89 or higher"):
            assemble(text_of(kernel), "8.6")


@pytest.mark.parametrize("target", ["8.0", "12.0a"])
def test_a_kernel_is_compiled_for_other_gpus_from_its_source(target: str) -> None:
    """The whole way, as `membound cuda-build --target` goes it: four bits, with what once needed 9.0."""
    (kernel,) = plan_linear("int4g32", 64, 256, 1, 2).kernels
    assert compile_cubin(kernel, target)[:4] == b"\x7fELF"
