"""Every kernel assembles for every GPU on which it claims to run: an instruction that came later is an error of the assembler."""

from __future__ import annotations

import pytest
import test_kernels
from cuda.bindings.nvjitlink import nvJitLinkError
from executor.gpu import TARGET, text_of

from membound.kernels.cuda import catalogue
from membound.kernels.cuda.compile import FP8_TARGET, Kernel, compile_cubin, parse_target
from membound.kernels.cuda.matmul.linear import plan_linear
from membound.kernels.models import MODELS
from membound.kernels.work import parse

pytestmark = pytest.mark.cuda_compile

TARGETS = ("8.0", "8.6", "8.9", "9.0a", "10.0a", "12.0a")


def claimed(target: str) -> list[Kernel]:
    """The kernels of the works that the executor runs, if they run on that target, and all instruments."""
    kernels = {k.name: k for k in (*catalogue.ceiling_kernels(), *catalogue.co_runner_kernels())}
    with pytest.MonkeyPatch.context() as patch:
        for model in (test_kernels.SMALL, test_kernels.ODD):
            patch.setitem(MODELS, model.name, model)
        for spec, multiprocessors in test_kernels.SPECS:
            work = parse(spec)
            found = catalogue.kernels_of(work, multiprocessors, target)
            kernels |= {k.name: k for k in (*found, *catalogue.loaded_kernels(work, multiprocessors))}
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
def test_every_kernel_that_claims_a_target_assembles_for_it(target: str) -> None:
    failed = {}
    kernels = claimed(target)
    for kernel in kernels:
        try:
            assemble(text_of(kernel), target)
        except nvJitLinkError as error:
            failed[kernel.name] = str(error)
    assert not failed
    assert len(kernels) > 40
    assert any("fp8" in kernel.name for kernel in kernels) is (parse_target(target)[:2] >= FP8_TARGET)


def test_the_assembler_refuses_what_came_later() -> None:
    """What is left out below 8.9 would not assemble there; so it is left out for a reason, and the check above can fail."""
    fp8 = [kernel for kernel in claimed(TARGET) if "fp8" in kernel.name]
    assert len(fp8) >= 4
    for kernel in fp8:
        with pytest.raises(nvJitLinkError, match=r"requires \.target sm_89 or higher"):
            assemble(text_of(kernel), "8.6")


@pytest.mark.parametrize("target", ["8.0", "12.0a"])
def test_a_kernel_is_compiled_for_other_gpus_from_its_source(target: str) -> None:
    """The whole way, as `membound cuda-build --target` goes it: four bits, with what once needed 9.0."""
    (kernel,) = plan_linear("int4g32", 64, 256, 1, 2).kernels
    assert compile_cubin(kernel, target)[:4] == b"\x7fELF"
